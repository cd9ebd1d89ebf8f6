/**
 * Keeps userfaultfds open beyond the death of this process: by another one that does nothing else (src/shim/dmigrate-keep).
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { closeSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { sendDescriptor, sendUpTo, socketPair } from "../kernel/unix-socket.ts";

const KEEP_SCRIPT = fileURLToPath(new URL("../shim/dmigrate-keep", import.meta.url));

/** Room for some tens of thousands of descriptors, nearly a kilobyte each: every process that is forked meanwhile has one. */
const QUEUE_BYTES = 64 * 1024 * 1024;

export class PageKeeper implements AsyncDisposable {
  readonly #child: ChildProcess;
  /** None once it was let go of. */
  #socket: number | undefined;

  /** @param folder once it is gone, nothing is kept any more, even if nobody says so */
  constructor(folder: string) {
    const [theirs, ours] = socketPair();
    sendUpTo(ours, QUEUE_BYTES);
    this.#socket = ours;
    this.#child = spawn(KEEP_SCRIPT, [folder], { stdio: ["ignore", "ignore", "ignore", theirs], detached: true });
    this.#child.unref();
    closeSync(theirs);
  }

  /** Keeps a duplicate of `fd`: nobody ever receives it, and it exists as long as the socket it was sent to. Throws KERNEL. */
  keep(fd: number): void {
    if (this.#socket !== undefined) sendDescriptor(this.#socket, fd);
  }

  /** Lets go of everything; returns when that is done. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#socket !== undefined) closeSync(this.#socket);
    this.#socket = undefined;
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.ref();
    const ended = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await ended;
  }
}
