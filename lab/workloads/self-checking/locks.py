"""File locks: one process holds a flock and a record lock, another is refused both and gets what lies beside them."""
import errno
import fcntl
import os

import health

PATH = "/data/locked"


def refused(lock, what):
    try:
        lock()
    except OSError as error:
        health.expect(error.errno in (errno.EAGAIN, errno.EACCES), True, "refusal of " + what)
    else:
        raise health.Wrong("%s was granted twice" % what)


def hold():
    descriptor = os.open(PATH, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    fcntl.lockf(descriptor, fcntl.LOCK_EX, 10, 100)
    os.write(locked_w, b"1")

    def verify(number):
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 100)

    health.repeat("locks-holder", verify)


def rival():
    os.read(locked_r, 1)
    descriptor = os.open(PATH, os.O_RDWR)

    def verify(number):
        refused(lambda: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB), "the file's lock")
        refused(lambda: fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 105), "the lock of bytes 100 to 109")
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 110)
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, 110)

    health.repeat("locks-rival", verify)


os.close(os.open(PATH, os.O_RDWR | os.O_CREAT))
locked_r, locked_w = os.pipe()
health.announce("locks-holder", "locks-rival")
if os.fork() == 0:
    hold()
rival()
