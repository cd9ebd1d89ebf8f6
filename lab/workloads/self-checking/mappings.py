"""Mapped files: private with pages of our own, shared with the file, shared with a child, and a file that has no name."""
import mmap
import os
import time

import health

PAGE = mmap.PAGESIZE
PAGES = 64


def numbered(number):
    return b"%020d" % number


def file_of_numbers(descriptor):
    for index in range(PAGES):
        os.pwrite(descriptor, numbered(index).ljust(PAGE, b"."), index * PAGE)
    return descriptor


path = "/data/mapped"
file = file_of_numbers(os.open(path, os.O_RDWR | os.O_CREAT))
private = mmap.mmap(file, PAGES * PAGE, flags=mmap.MAP_PRIVATE)
shared = mmap.mmap(file, PAGES * PAGE, flags=mmap.MAP_SHARED)
nameless_file = file_of_numbers(os.memfd_create("nameless"))
nameless = mmap.mmap(nameless_file, PAGES * PAGE, flags=mmap.MAP_SHARED)
court = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)


def number_in(mapping, index):
    return int(mapping[index * PAGE : index * PAGE + 20] or b"-1")


def put(mapping, index, number):
    mapping[index * PAGE : index * PAGE + 20] = numbered(number)


def parent(number):
    # Odd pages of the private mapping are ours, even ones are the file's.
    expected = number - 1 if number else 1
    health.expect(number_in(private, 1), expected, "own page of the private mapping")
    put(private, 1, number)
    health.expect(number_in(private, 2), 2, "file's page of the private mapping")
    health.expect(os.pread(file, 20, PAGE), numbered(1), "file under the private mapping")
    # The shared one and the file are the same.
    put(shared, 4, number)
    health.expect(os.pread(file, 20, 4 * PAGE), numbered(number), "file under the shared mapping")
    os.pwrite(file, numbered(number), 6 * PAGE)
    health.expect(number_in(shared, 6), number, "shared mapping over the file")
    # So are the mapping and the descriptor of a file without a name.
    put(nameless, 8, number)
    health.expect(os.pread(nameless_file, 20, 8 * PAGE), numbered(number), "nameless file")
    health.expect(number_in(nameless, PAGES - 1), PAGES - 1, "untouched page of the nameless file")
    play(2 * number)


def child(number):
    play(2 * number + 1)


def play(turn):
    """Two processes take turns in memory that both share: the first byte says whose turn it is, a page holds the last move."""
    while (shown := court[0]) != turn % 256:
        health.expect(shown, (turn - 1) % 256, "turn in the shared memory")
        time.sleep(0.001)
    if turn > 0:
        health.expect(number_in(court, 1 + (turn - 1) % (PAGES - 1)), turn - 1, "last move in the shared memory")
    put(court, 1 + turn % (PAGES - 1), turn)
    court[0] = (turn + 1) % 256


health.announce("mappings-parent", "mappings-child")
if os.fork() == 0:
    health.repeat("mappings-child", child)
health.repeat("mappings-parent", parent)
