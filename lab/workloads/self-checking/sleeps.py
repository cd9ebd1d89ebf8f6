"""Programs that sleep, begun one after the other: each must sleep as long as it was asked to, wherever it is when its time is over."""
import collections
import os
import time

import health

SECONDS = 5
# Ample for a busy machine, yet less than the eldest has slept at any moment: one that begins anew is too late.
LATE_S = 3


def start(seconds):
    return time.monotonic(), seconds, os.posix_spawnp("sleep", ["sleep", str(seconds)], os.environ)


def verify(number):
    began, seconds, process = sleepers.popleft()
    os.waitpid(process, 0)
    slept = time.monotonic() - began
    if not seconds <= slept < seconds + LATE_S:
        raise health.Wrong("a sleep of %d s took %f s" % (seconds, slept))
    sleepers.append(start(SECONDS))


sleepers = collections.deque(start(1 + place) for place in range(SECONDS))
health.announce("sleeps")
health.repeat("sleeps", verify, pause_s=0)
