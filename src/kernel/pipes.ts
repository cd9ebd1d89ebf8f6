/**
 * Pipes: named ones made (mkfifo(3)), and how much nobody has read yet of what was written to those of other processes (pipe(7),
 * FIONREAD in ioctl_tty(2)).
 */
import { closeSync, constants, openSync, statSync } from "node:fs";
import { declare, must } from "./libc.ts";

const FIONREAD = 0x541bn;
const ioctl = declare<(fd: number, request: bigint, value: Int32Array) => number>("int ioctl(int fd, unsigned long request, void *value)");

const mkfifo = declare<(file: string, mode: number) => number>("int mkfifo(const char *path, unsigned int mode)");

/** Makes a named pipe that root alone may use, the umask permitting. Throws KERNEL. */
export function makeFifo(file: string): void {
  must("mkfifo", mkfifo(file, 0o600));
}

/** Bytes that wait in the pipe at `file`, a fifo or /proc/PID/fd/N; 0 if there is no pipe. Throws KERNEL. */
export function unreadBytes(file: string): number {
  if (statSync(file, { throwIfNoEntry: false })?.isFIFO() !== true) return 0;
  const fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const count = new Int32Array(1);
    must("ioctl", ioctl(fd, FIONREAD, count));
    return count[0] ?? 0;
  } finally {
    closeSync(fd);
  }
}
