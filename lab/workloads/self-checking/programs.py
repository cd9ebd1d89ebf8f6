"""A process whose children look at what they inherit, and then end or become another program. One mapping of it they find wiped."""
import mmap
import os
import random
import sys

import health

PAGE = mmap.PAGESIZE
PAGES = 4096
WIPE_ON_FORK = 18

memory = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
secret = mmap.mmap(-1, 16 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
secret.madvise(WIPE_ON_FORK)


def numbered(number):
    return b"%020d" % number


def hidden(index):
    return numbered(1000000 + index)


def inherited(seed):
    """What is wrong with the memory of a child: nothing, unless this says something."""
    for index in random.Random(seed).sample(range(PAGES), 40):
        if memory[index * PAGE : index * PAGE + 20] != numbered(index):
            return "page %d" % index
    for index in range(16):
        if secret[index * PAGE : index * PAGE + 20] != bytes(20):
            return "page %d that is to be wiped" % index
    return ""


def verify(number):
    children = []
    for nth in range(3):
        child = os.fork()
        if child == 0:
            wrong = inherited(3 * number + nth)
            if wrong:
                print(wrong, file=sys.stderr, flush=True)
                os._exit(1)
            if nth == 0:
                os.execv(sys.executable, [sys.executable, "-S", "-c", "raise SystemExit(3)"])
            os._exit(3)
        children.append(child)
    for child in children:
        _, status = os.waitpid(child, 0)
        health.expect(os.waitstatus_to_exitcode(status), 3, "exit code of a child")
    for index in range(16):
        health.expect(secret[index * PAGE : index * PAGE + 20], hidden(index), "page that children find wiped")


for index in range(PAGES):
    memory[index * PAGE : index * PAGE + 20] = numbered(index)
for index in range(16):
    secret[index * PAGE : index * PAGE + 20] = hidden(index)
health.announce("programs")
health.repeat("programs", verify)
