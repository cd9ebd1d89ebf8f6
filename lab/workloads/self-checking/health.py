"""How a workload tells whether all is well: one file per worker, `OK n` after n verified rounds, or `FAIL why` for ever."""
import os
import signal
import sys
import time
import traceback

FOLDER = "/dev/shm/health"


class Wrong(Exception):
    """The state is not what it must be."""


def expect(actual, expected, what):
    if actual != expected:
        raise Wrong("%s is %r, must be %r" % (what, actual, expected))


def announce(*workers):
    """Names the workers before they start, so that one that never reports is missed."""
    os.makedirs(FOLDER, exist_ok=True)
    for worker in workers:
        report(worker, "OK 0")


def repeat(worker, verify, pause_s=0.01):
    """Calls verify(0), verify(1), ... for ever; stands still at the first thing that is wrong, for `check` to tell."""
    try:
        number = 0
        while True:
            verify(number)
            number += 1
            report(worker, "OK %d" % number)
            time.sleep(pause_s)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        report(worker, "FAIL %s: %s" % (type(error).__name__, error))
    while True:
        signal.pause()


def report(worker, text):
    path = os.path.join(FOLDER, worker)
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)


def read_all():
    """What each worker reported last."""
    names = os.listdir(FOLDER) if os.path.isdir(FOLDER) else []
    return {name: read(name) for name in names if not name.endswith(".new")}


def read(worker):
    with open(os.path.join(FOLDER, worker)) as file:
        return file.read()
