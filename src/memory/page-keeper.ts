/**
 * Keeps userfaultfds open beyond the death of this process: by another one that does nothing else (src/shim/dmigrate-keep).
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { closeSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { socketPair } from "../kernel/socket.ts";
import { sendDescriptor } from "../kernel/unix-socket.ts";

const KEEP_SCRIPT = fileURLToPath(new URL("../shim/dmigrate-keep", import.meta.url));

export class PageKeeper implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #socket: number;

  /** @param folder once it is gone, nothing is kept any more, even if nobody says so */
  constructor(folder: string) {
    const [theirs, ours] = socketPair();
    this.#socket = ours;
    this.#child = spawn(KEEP_SCRIPT, [folder], { stdio: ["ignore", "ignore", "ignore", theirs], detached: true });
    this.#child.unref();
    closeSync(theirs);
  }

  /** Keeps a duplicate of `fd`: nobody ever receives it, and it exists as long as the socket it was sent to. Throws KERNEL. */
  keep(fd: number): void {
    sendDescriptor(this.#socket, fd);
  }

  /** Lets go of everything; returns when that is done. */
  async [Symbol.asyncDispose](): Promise<void> {
    closeSync(this.#socket);
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await ended;
  }
}
