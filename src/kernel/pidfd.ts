/**
 * Ends processes, and holds them by descriptor: a signal can't reach another process that got the same number since (pidfd_open(2),
 * pidfd_send_signal(2)).
 */
import { closeSync } from "node:fs";
import { constants } from "node:os";
import { declare, must } from "./libc.ts";

const pidfdOpen = declare<(pid: number, flags: number) => number>("int pidfd_open(int pid, unsigned int flags)");
const pidfdSendSignal = declare<(fd: number, signal: number, info: null, flags: number) => number>(
  "int pidfd_send_signal(int pidfd, int sig, void *info, unsigned int flags)",
);

const pidfdGetfd = declare<(pidfd: number, fd: number, flags: number) => number>(
  "int pidfd_getfd(int pidfd, int targetfd, unsigned int flags)",
);

/** Duplicates a descriptor of another process into this one (pidfd_getfd(2)); the caller closes it. Throws KERNEL. */
export function duplicateFrom(pid: number, fd: number): number {
  const pidfd = must("pidfd_open", pidfdOpen(pid, 0));
  try {
    return must("pidfd_getfd", pidfdGetfd(pidfd, fd, 0));
  } finally {
    closeSync(pidfd);
  }
}

/** A process, which may have ended; its number is not given to another one as long as this can tell them apart. */
export class ProcessHandle implements Disposable {
  readonly #fd: number;

  /** Throws KERNEL, with cause ESRCH, if no process has this number. */
  constructor(pid: number) {
    this.#fd = must("pidfd_open", pidfdOpen(pid, 0));
  }

  /** Sends a signal. Throws KERNEL, with cause ESRCH, if the process has ended. */
  signal(signal: NodeJS.Signals): void {
    must("pidfd_send_signal", pidfdSendSignal(this.#fd, constants.signals[signal], null, 0));
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

/** Ends a process by its number. One that has ended by itself is no error. */
export function killProcess(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "ESRCH")) throw error;
  }
}
