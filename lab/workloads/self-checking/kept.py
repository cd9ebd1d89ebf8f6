"""Memory that can't be left for later: a file without a name, a SysV segment, a file in memory, and pages of our own in a mapped file."""
import argparse
import array
import ctypes
import hashlib
import mmap
import os
import random
import time

import health

PAGE = mmap.PAGESIZE
PAGES_PER_STEP = 256
PAGES_REWRITTEN = 16

parser = argparse.ArgumentParser()
parser.add_argument("--mb", type=int, default=2, help="megabytes of each kind; every eighth page is never touched")
parser.add_argument("--pause", type=float, default=0.02, help="seconds of rest after each megabyte")
options = parser.parse_args()

page_count = options.mb * (1 << 20) // PAGE
size = page_count * PAGE


def content(place, index, stamp):
    return hashlib.shake_128(b"%d %d %d" % (place, index, stamp)).digest(PAGE)


def is_touched(index):
    return index % 8 != 7


def nameless():
    file = os.memfd_create("kept")  # stays open
    os.ftruncate(file, size)
    return mmap.mmap(file, size, flags=mmap.MAP_SHARED)


def segment():
    c = ctypes.CDLL(None, use_errno=True)
    c.shmat.restype = ctypes.c_void_p
    identity = c.shmget(0, ctypes.c_size_t(size), 0o1600)  # IPC_PRIVATE, IPC_CREAT
    address = c.shmat(identity, None, 0)
    if identity < 0 or address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "no SysV segment")
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def file_in_memory():
    file = os.open("/dev/shm/kept", os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, size)
    return mmap.mmap(file, size, flags=mmap.MAP_SHARED)


def pages_of_our_own():
    file = os.open("/data/kept", os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, size)
    return mmap.mmap(file, size, flags=mmap.MAP_PRIVATE)


places = [nameless(), segment(), file_in_memory(), pages_of_our_own()]
# How often each page was written.
stamps = [array.array("L", bytes(array.array("L").itemsize * page_count)) for _ in places]


def write(place, index):
    stamps[place][index] += 1
    places[place][index * PAGE : (index + 1) * PAGE] = content(place, index, stamps[place][index])


def verify_step(place, first):
    """Verifies the pages from `first` on, then rewrites some anywhere."""
    for index in range(first, min(first + PAGES_PER_STEP, page_count)):
        expected = content(place, index, stamps[place][index]) if is_touched(index) else bytes(PAGE)
        if bytes(places[place][index * PAGE : (index + 1) * PAGE]) != expected:
            raise health.Wrong("page %d of place %d differs from what was written" % (index, place))
    for index in random.sample(range(page_count), PAGES_REWRITTEN):
        if is_touched(index):
            write(place, index)


def verify_all(number):
    for place in range(len(places)):
        for first in range(0, page_count, PAGES_PER_STEP):
            verify_step(place, first)
            time.sleep(options.pause)


for place in range(len(places)):
    for index in filter(is_touched, range(page_count)):
        write(place, index)
health.announce("kept")
health.repeat("kept", verify_all)
