/**
 * Holes in files: finding what holds data, and making a hole (lseek(2) with SEEK_DATA and SEEK_HOLE, fallocate(2)).
 */
import { declare, mustUnless } from "./libc.ts";

const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const ENXIO = 6;
const EOPNOTSUPP = 95;

const libc = {
  lseek: declare<(fd: number, offset: number, whence: number) => number>("long lseek(int fd, long offset, int whence)"),
  fallocate: declare<(fd: number, mode: number, offset: number, bytes: number) => number>(
    "int fallocate(int fd, int mode, long offset, long len)",
  ),
};

/** Bytes from `start` up to `end`, which is not among them. */
export interface Extent {
  readonly start: number;
  readonly end: number;
}

/**
 * Where the first `size` bytes of a file hold data, in order; the rest reads as zeros. A file system that knows no holes tells one
 * extent. Moves the descriptor's offset. Throws KERNEL.
 */
export function* dataExtents(fd: number, size: number): Generator<Extent, void> {
  let end = 0;
  while (end < size) {
    const start = mustUnless("lseek", libc.lseek(fd, end, SEEK_DATA), ENXIO);
    if (start === undefined || start >= size) return;
    const hole = mustUnless("lseek", libc.lseek(fd, start, SEEK_HOLE), ENXIO); // ENXIO: the file was cut meanwhile
    if (hole === undefined) return;
    end = Math.min(hole, size);
    yield { start, end };
  }
}

/** Makes bytes read as zeros and gives their space back; false where the file system can't. The file's size stays. Throws KERNEL. */
export function punchHole(fd: number, start: number, length: number): boolean {
  const result = libc.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, length);
  return mustUnless("fallocate", result, EOPNOTSUPP) !== undefined;
}
