"""Memory that processes share by having been forked: they write it in turns, and each knows what all of it must be in its turn."""
import hashlib
import mmap
import os
import time

import health

PAGE = mmap.PAGESIZE
PAGES = 2048
BLOCK = 32
BLOCKS = PAGES * 3 // 4 // BLOCK  # the rest is never touched
PROCESSES = 3
# Every so many turns of the first process a child writes in its place, and ends.
BY_CHILD = 3

turns = mmap.mmap(-1, PAGE)
memory = mmap.mmap(-1, PAGES * PAGE)


def content(index, turn):
    return hashlib.shake_128(b"%d %d" % (index, turn)).digest(PAGE)


def write(turn):
    for index in range(turn % BLOCKS * BLOCK, (turn % BLOCKS + 1) * BLOCK):
        memory[index * PAGE : (index + 1) * PAGE] = content(index, turn)


def expected(index, turn):
    """Of a page before that turn: each turn writes a block, one after the other."""
    block = index // BLOCK
    return content(index, block + (turn - 1 - block) // BLOCKS * BLOCKS) if block < BLOCKS else bytes(PAGE)


def taker(worker):
    def verify(number):
        turn = BLOCKS + number * PROCESSES + worker
        while int.from_bytes(turns[:8], "little") != turn:
            time.sleep(0.001)
        for index in range(PAGES):
            if memory[index * PAGE : (index + 1) * PAGE] != expected(index, turn):
                raise health.Wrong("page %d is not as it was in turn %d" % (index, turn))
        if worker == 0 and number % BY_CHILD == 0:
            child = os.fork()
            if child == 0:
                write(turn)
                os._exit(0)
            os.waitpid(child, 0)
        else:
            write(turn)
        turns[:8] = (turn + 1).to_bytes(8, "little")

    return verify


for block in range(BLOCKS):
    write(block)
turns[:8] = BLOCKS.to_bytes(8, "little")
workers = ["shared-%d" % worker for worker in range(PROCESSES)]
health.announce(*workers)
for worker in range(1, PROCESSES):
    if os.fork() == 0:
        health.repeat(workers[worker], taker(worker))
health.repeat(workers[0], taker(0))
