#!/usr/bin/python3
"""Tells whether the workload of this container is well: prints OK, or the first error, and exits with 1.

Every worker must verify its whole state anew after this was asked: an old OK counts for nothing.
"""
import argparse
import sys
import time

import health

parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=2, help="rounds that each worker must end after the question (the first may have begun before it)")
parser.add_argument("--limit", type=float, default=20, help="seconds to wait for them")


def rounds(text):
    return int(text.split()[1])


def main():
    options = parser.parse_args()
    deadline = time.monotonic() + options.limit
    before = {}
    while True:
        now = health.read_all()
        failed = sorted("%s: %s" % entry for entry in now.items() if not entry[1].startswith("OK"))
        if failed:
            return failed[0]
        before = {**now, **before}
        waiting = sorted(name for name in before if rounds(now[name]) < rounds(before[name]) + options.rounds)
        if before and not waiting:
            return "OK " + " ".join("%s=%d" % (name, rounds(now[name])) for name in sorted(now))
        if time.monotonic() > deadline:
            return "FAIL no progress of " + (", ".join(waiting) or "any worker")
        time.sleep(0.01)


verdict = main()
print(verdict)
sys.exit(0 if verdict.startswith("OK ") else 1)
