/**
 * Files of a directory, told as each one that was open for writing is closed (inotify(7)).
 */
import { close, closeSync, readSync } from "node:fs";
import { constants } from "node:os";
import { DmigrateError } from "../core/errors.ts";
import { declare, must, readable } from "./libc.ts";

const IN_CLOSE_WRITE = 0x8;
const IN_Q_OVERFLOW = 0x4000;
const IN_ONLYDIR = 0x1000000;
const IN_NONBLOCK = 0o4000;
const IN_CLOEXEC = 0o2000000;
const EVENT_BYTES = 16; // struct inotify_event: int wd; u32 mask, cookie, len; then `len` bytes of name, padded with NUL

const inotifyInit = declare<(flags: number) => number>("int inotify_init1(int flags)");
const inotifyAddWatch = declare<(fd: number, path: string, mask: number) => number>(
  "int inotify_add_watch(int fd, const char *pathname, uint32_t mask)",
);

/**
 * The names of files in one directory, each as it is closed after writing, from the moment of construction on. A file closed twice is
 * told twice. Iterate once. While the iterator waits it holds a thread of libuv's pool (see `readable`).
 */
export class ClosedWrites implements AsyncIterable<string>, Disposable {
  readonly #fd: number;
  readonly #names: string[] = [];
  readonly #closed = new AbortController();

  /** Throws KERNEL if `directory` is none. */
  constructor(directory: string) {
    this.#fd = must("inotify_init1", inotifyInit(IN_NONBLOCK | IN_CLOEXEC));
    try {
      must("inotify_add_watch", inotifyAddWatch(this.#fd, directory, IN_CLOSE_WRITE | IN_ONLYDIR));
    } catch (error) {
      closeSync(this.#fd);
      throw error;
    }
  }

  /**
   * Stops watching. The iterator still tells what had been closed by now, then ends. The descriptor is closed behind this: the kernel lets
   * go of a watch only after a grace period of SRCU (fs/notify/mark.c), 9 to 20 ms.
   */
  close(): void {
    if (this.#closed.signal.aborted) return;
    try {
      this.#drain();
    } finally {
      this.#closed.abort();
      close(this.#fd, () => {});
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Throws KERNEL if the kernel's queue overflowed (fs.inotify.max_queued_events), for names are missing then. */
  async *[Symbol.asyncIterator](): AsyncGenerator<string, void> {
    for (;;) {
      yield* this.#names.splice(0);
      if (this.#names.length > 0) continue;
      if (!(await readable(this.#fd, this.#closed.signal))) break;
      this.#drain();
    }
    yield* this.#names.splice(0);
  }

  #drain(): void {
    const buffer = Buffer.alloc(64 * 1024);
    for (let size = this.#read(buffer); size > 0; size = this.#read(buffer)) {
      for (let at = 0; at < size; at += EVENT_BYTES + buffer.readUInt32LE(at + 12)) {
        if ((buffer.readUInt32LE(at + 4) & IN_Q_OVERFLOW) !== 0) {
          throw new DmigrateError("KERNEL", "inotify lost events; raise the sysctl fs.inotify.max_queued_events");
        }
        const name = buffer.subarray(at + EVENT_BYTES, at + EVENT_BYTES + buffer.readUInt32LE(at + 12));
        if (name.length > 0) this.#names.push(name.toString("utf8", 0, name.indexOf(0)));
      }
    }
  }

  #read(buffer: Buffer): number {
    try {
      return readSync(this.#fd, buffer);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).errno === -constants.errno.EAGAIN) return 0; // readSync throws nothing else
      throw error;
    }
  }
}
