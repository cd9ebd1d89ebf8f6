"""Time: an interval timer, a timer descriptor, sleeps that must not end early, and a clock that must not go back."""
import os
import signal
import time

import health

alarms = 0
clock = time.monotonic()


def on_alarm(*_):
    global alarms
    alarms += 1


signal.signal(signal.SIGALRM, on_alarm)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
descriptor = os.timerfd_create(time.CLOCK_MONOTONIC)
os.timerfd_settime(descriptor, initial=0.01, interval=0.01)


def tick():
    """Reads the clock, which must not go back."""
    global clock
    now = time.monotonic()
    if now < clock:
        raise health.Wrong("the monotonic clock went back from %f to %f" % (clock, now))
    clock = now
    return now


def verify(number):
    began, alarms_before = tick(), alarms
    time.sleep(0.1)
    slept = tick() - began
    if slept < 0.1:
        raise health.Wrong("a sleep of 0.1 s took %f s" % slept)
    while alarms == alarms_before:
        signal.pause()
    expirations = int.from_bytes(os.read(descriptor, 8), "little")
    health.expect(expirations > 0, True, "expiration of the timer descriptor")
    (_, interval) = signal.getitimer(signal.ITIMER_REAL)
    health.expect(round(interval, 4), 0.01, "interval of the timer")


health.announce("timers")
health.repeat("timers", verify)
