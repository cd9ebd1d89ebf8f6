"""Programs that sleep, begun one after the other: each must sleep as long as it was asked to, wherever it is when its time is over."""
import collections
import os
import threading
import time

import health

SECONDS = 5
# Besides what all of the container stood still. Less than the eldest has slept at any moment: one that begins anew is too late.
LATE_S = 3
TICK_S = 0.05
stood_still_s = 0


def watch():
    """Counts for how long a sleep too short to matter was late: the container was frozen, or its machine busy."""
    global stood_still_s
    while True:
        before = time.monotonic()
        time.sleep(TICK_S)
        stood_still_s += time.monotonic() - before - TICK_S


def start(seconds):
    return time.monotonic(), stood_still_s, seconds, os.posix_spawnp("sleep", ["sleep", str(seconds)], os.environ)


def verify(number):
    began, stood_still_before, seconds, process = sleepers.popleft()
    os.waitpid(process, 0)
    slept = time.monotonic() - began
    time.sleep(TICK_S)  # so that the last time it stood still is counted
    if not seconds <= slept < seconds + LATE_S + stood_still_s - stood_still_before:
        raise health.Wrong("a sleep of %d s took %f s" % (seconds, slept))
    sleepers.append(start(SECONDS))


threading.Thread(target=watch, daemon=True).start()
sleepers = collections.deque(start(1 + place) for place in range(SECONDS))
health.announce("sleeps")
health.repeat("sleeps", verify, pause_s=0)
