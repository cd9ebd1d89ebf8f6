/**
 * Write protection of a running process's memory from outside: whoever writes to a protected page is not stopped, but it can be asked
 * afterwards which pages were written (userfaultfd(2), UFFD_FEATURE_WP_ASYNC of Linux 6.7; asked by src/kernel/pagemap.ts).
 *
 * The descriptor is made inside the process and taken out of it: nothing is left there. When its last copy is closed, also because this
 * process was killed, the kernel takes all protection away.
 */
import { closeSync } from "node:fs";
import { declare, failedWith, must, orErrno } from "./libc.ts";
import type { AddressRange } from "./pagemap.ts";
import { duplicateFrom } from "./pidfd.ts";
import { callIn, type StoppedThread } from "./remote-call.ts";
import { Userfaultfd } from "./userfaultfd.ts";

/** Numbers of x86-64. */
const CALL = { close: 3, userfaultfd: 323 } as const;
/** O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY: without the last, a process without CAP_SYS_PTRACE may be refused it. */
const FLAGS = 0o2004001;
const UFFDIO_API = 0xc018aa3f;
const UFFDIO_REGISTER = 0xc020aa00;
const UFFDIO_WRITEPROTECT = 0xc018aa06;
const ESRCH = 3;
const API = 0xaan;
const FEATURES = (1n << 13n) | (1n << 15n); // UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC
/** UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMOVE. */
const EVENTS = (1n << 1n) | (1n << 3n);
const MODE_WRITE_PROTECT = 2n;
const PROTECT = 1n;
/** Nothing that can be protected lies there: the end of the first thread's stack. */
const LAST_PAGE = { start: 0x7fff_ffff_d000, end: 0x7fff_ffff_e000 };

const ioctl = declare<(fd: number, request: number, argument: BigUint64Array) => number>(
  "int ioctl(int fd, unsigned long request, void *argument)",
);

/** Makes a userfaultfd of a process; the caller closes it. Throws KERNEL. */
export type OpenUserfaultfd = (pid: number) => Promise<number>;

/**
 * Makes one inside the process, and takes it out; that stands still for some hundred microseconds. If this process is killed meanwhile, the
 * other one is left in the middle of a call that it never made: so this is for a process that nobody kills (src/agent/guard-process.ts).
 */
export function openUserfaultfd(pid: number): Promise<number> {
  return callIn(pid, (thread) => openUserfaultfdBy(thread, pid));
}

/**
 * Makes one by system calls of the process.
 * @param thread of it, stopped
 */
export async function openUserfaultfdBy(thread: Pick<StoppedThread, "call">, pid: number): Promise<number> {
  const remote = await thread.call("userfaultfd", CALL.userfaultfd, [FLAGS]);
  try {
    return duplicateFrom(pid, Number(remote));
  } finally {
    await thread.call("close", CALL.close, [remote]);
  }
}

/** The write protection of one address space. Disposing of it ends it. */
export class WriteProtection implements Disposable {
  readonly #fd: number;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /**
   * Throws KERNEL if the process has ended, is traced, or the kernel can't do this.
   * @param open makes a userfaultfd of the process
   * @param tellsEvents whether the process waits, as it forks or gives content up (madvise(2)), until `userfaults` has told of that
   */
  static async begin(pid: number, open: OpenUserfaultfd = openUserfaultfd, tellsEvents = false): Promise<WriteProtection> {
    const fd = await open(pid);
    try {
      must("UFFDIO_API", ioctl(fd, UFFDIO_API, BigUint64Array.of(API, tellsEvents ? FEATURES | EVENTS : FEATURES, 0n)));
      return new WriteProtection(fd);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /**
   * Has writes to a mapping noted from now on. False if it can't be: it belongs to somebody else's userfaultfd, has vanished, or the
   * process runs another program by now. Throws KERNEL.
   */
  add({ start, end }: AddressRange): boolean {
    try {
      must(
        "UFFDIO_REGISTER",
        ioctl(this.#fd, UFFDIO_REGISTER, BigUint64Array.of(BigInt(start), BigInt(end - start), MODE_WRITE_PROTECT, 0n)),
      );
      return true;
    } catch (error) {
      if (["EINVAL", "EBUSY", "ENOMEM", "EPERM", "ESRCH"].some((code) => failedWith(code, error))) return false;
      throw error;
    }
  }

  /** What tells of its events. */
  get userfaults(): Userfaultfd {
    return new Userfaultfd(this.#fd);
  }

  /** Whether the program still runs that it is of. */
  get isAlive(): boolean {
    return this.#protect(LAST_PAGE) !== -ESRCH;
  }

  /**
   * Protects every page there, also where none is yet: from now on `Pagemap.protectedPages` tells which were not written. False if that
   * can't be: not all of it is registered, or the process has ended, or forks just now.
   */
  protect(range: AddressRange): boolean {
    return this.#protect(range) === 0;
  }

  #protect({ start, end }: AddressRange): number {
    return orErrno(ioctl(this.#fd, UFFDIO_WRITEPROTECT, BigUint64Array.of(BigInt(start), BigInt(end - start), PROTECT)));
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}
