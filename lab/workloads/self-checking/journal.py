"""A journal on a volume: numbered records, each on the disk before it counts; it is read from its beginning again and again."""
import argparse
import os
import zlib

import health

RECORD_SIZE = 22

parser = argparse.ArgumentParser()
parser.add_argument("--path", default="/data/journal")
options = parser.parse_args()


def record(number):
    return b"%012d %08x\n" % (number, zlib.crc32(b"%d" % number))


def verify_from_beginning(expected_count):
    with open(options.path, "rb") as copy:
        content = copy.read()
    health.expect(len(content), expected_count * RECORD_SIZE, "size of the journal")
    for number in range(expected_count):
        health.expect(content[number * RECORD_SIZE : (number + 1) * RECORD_SIZE], record(number), "record %d" % number)


journal = os.open(options.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
# A journal that an earlier process wrote is verified and continued.
first = os.fstat(journal).st_size // RECORD_SIZE


def verify(number):
    verify_from_beginning(first + number)
    os.write(journal, record(first + number))
    os.fsync(journal)


health.announce("journal")
health.repeat("journal", verify, pause_s=0.02)
