"""Open files: offsets, a shared offset, flags, a file renamed and one deleted while open."""
import fcntl
import os
import tempfile

import health

RECORD = b"%010d\n"

folder = tempfile.mkdtemp(dir="/data")
log_path = os.path.join(folder, "log")
writer = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
reader = os.open(log_path, os.O_RDONLY | os.O_NONBLOCK)
same_offset = os.dup(reader)
inheritable = os.dup2(reader, 77)
renamed = os.open(os.path.join(folder, "before"), os.O_RDWR | os.O_CREAT)
os.rename(os.path.join(folder, "before"), os.path.join(folder, "after"))
ghost = os.open(os.path.join(folder, "ghost"), os.O_RDWR | os.O_CREAT)
os.unlink(os.path.join(folder, "ghost"))
os.write(ghost, bytes(100_000))


def verify(number):
    record = RECORD % number
    os.write(writer, record)
    health.expect(os.read(reader, len(record)), record, "record %d of the log" % number)
    health.expect(os.lseek(same_offset, 0, os.SEEK_CUR), (number + 1) * len(record), "offset shared by two descriptors")
    health.expect(os.stat(log_path).st_size, (number + 1) * len(record), "size of the log")

    health.expect(os.readlink("/proc/self/fd/%d" % renamed), os.path.join(folder, "after"), "name of the renamed file")
    health.expect(os.pread(renamed, 20, 0), RECORD % (number - 1) if number else b"", "content of the renamed file")
    os.pwrite(renamed, record, 0)

    health.expect(os.fstat(ghost).st_nlink, 0, "link count of the deleted file")
    health.expect(os.fstat(ghost).st_size, 100_000, "size of the deleted file")
    health.expect(os.pread(ghost, 11, 50_000), RECORD % (number - 1) if number else bytes(11), "content of the deleted file")
    os.pwrite(ghost, record, 50_000)

    health.expect(fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_APPEND, os.O_APPEND, "O_APPEND")
    health.expect(fcntl.fcntl(reader, fcntl.F_GETFL) & os.O_NONBLOCK, os.O_NONBLOCK, "O_NONBLOCK")
    health.expect(os.get_inheritable(reader), False, "inheritance of a descriptor that closes on exec")
    health.expect(os.get_inheritable(inheritable), True, "inheritance of a descriptor that stays open on exec")


health.announce("files")
health.repeat("files", verify)
