"""Numbered lines on standard output: `docker logs` must show them all."""
import health


def verify(number):
    print(number, flush=True)


health.announce("counter")
health.repeat("counter", verify, pause_s=0.02)
