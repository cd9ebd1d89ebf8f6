"""Memory of several processes: shared by fork, then rewritten page by page; every page knows what must be in it."""
import argparse
import array
import hashlib
import mmap
import os
import random
import time

import health

PAGE = mmap.PAGESIZE
PAGES_PER_STEP = 256

parser = argparse.ArgumentParser()
parser.add_argument("--mb", type=int, default=16, help="megabytes that each process maps; the last quarter is never touched")
parser.add_argument("--processes", type=int, default=3)
parser.add_argument("--pause", type=float, default=0.01, help="seconds of rest after each megabyte")
options = parser.parse_args()

page_count = options.mb * (1 << 20) // PAGE
used_count = page_count * 3 // 4
memory = mmap.mmap(-1, page_count * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
# What was written into each page last: (process << 32) + how often.
stamps = array.array("Q", bytes(8 * used_count))


def content(index, stamp):
    return hashlib.shake_128(b"%d %d" % (index, stamp)).digest(PAGE)


def page(index):
    return memory[index * PAGE : (index + 1) * PAGE]


def write(index, stamp):
    stamps[index] = stamp
    memory[index * PAGE : (index + 1) * PAGE] = content(index, stamp)


def verify_step(first):
    """Verifies the pages from `first` on, then rewrites some anywhere."""
    for index in range(first, min(first + PAGES_PER_STEP, page_count)):
        expected = content(index, stamps[index]) if index < used_count else bytes(PAGE)
        if page(index) != expected:
            raise health.Wrong("page %d at byte %d of the mapping differs from what was written" % (index, index * PAGE))
    for index in random.sample(range(used_count), PAGES_PER_STEP // 8):
        write(index, stamps[index] + 1)


def verify_all(number):
    for first in range(0, page_count, PAGES_PER_STEP):
        verify_step(first)
        time.sleep(options.pause)


for index in range(used_count):
    write(index, 0)
workers = ["memory-%d" % process for process in range(options.processes)]
health.announce(*workers)
for process in range(1, options.processes):
    if os.fork() == 0:
        for index in range(0, used_count, 2):
            write(index, process << 32)
        health.repeat(workers[process], verify_all)
health.repeat(workers[0], verify_all)
