/**
 * The socket over which `criu restore --lazy-pages` hands out the userfaultfd of each task (CRIU criu/uffd.c).
 *
 * It connects once. For each task comes an i32, the process id inside the container, and behind it a byte with the descriptor; a zombie's
 * id is negative and has none. When the restore is over comes the u32 0x52535446, at a time when the tasks are about to run.
 */
import { closeSync } from "node:fs";
import path from "node:path";
import { DmigrateError } from "../core/errors.ts";
import type { InputWatch } from "../kernel/epoll.ts";
import { acceptFrom, listenAt, receive } from "../kernel/unix-socket.ts";

const RESTORE_FINISHED = 0x52535446;
const NUMBER_BYTES = 4;

/** What is told of a restore. */
export interface RestoreListener {
  /** A task of this process id has this userfaultfd, which is the listener's now. */
  readonly task: (process: number, fd: number) => void;
  /** The restore said something unknown (PROTOCOL). That it broke off its end tells. */
  readonly failed: (error: DmigrateError) => void;
}

export class LazySocket implements Disposable {
  readonly #watch: InputWatch;
  readonly #listener: RestoreListener;
  #socket: number;
  #isConnected = false;
  readonly #number = Buffer.alloc(NUMBER_BYTES);
  #numberBytes = 0;
  /** The task whose descriptor comes next. */
  #process: number | undefined;
  #isOver = false;

  /** Listens for one restore whose work folder is `work`. */
  constructor(work: string, watch: InputWatch, listener: RestoreListener) {
    this.#watch = watch;
    this.#listener = listener;
    this.#socket = listenAt(path.join(work, "lazy-pages.socket"));
    watch.add(this.#socket, () => this.drain());
  }

  /** Takes what the restore has said by now. */
  drain(): void {
    try {
      if (!this.#isConnected) this.#accept();
      while (this.#isConnected && !this.#isOver && this.#receive());
    } catch (error) {
      this[Symbol.dispose]();
      this.#listener.failed(DmigrateError.from(error));
    }
  }

  [Symbol.dispose](): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#watch.delete(this.#socket);
    closeSync(this.#socket);
  }

  #accept(): void {
    const connection = acceptFrom(this.#socket);
    if (connection === undefined) return;
    this.#watch.delete(this.#socket);
    closeSync(this.#socket);
    this.#socket = connection;
    this.#isConnected = true;
    this.#watch.add(connection, () => this.drain());
  }

  /** Takes one message or a part of it; false if nothing is there. */
  #receive(): boolean {
    const into = this.#process === undefined ? this.#number.subarray(this.#numberBytes) : Buffer.alloc(1);
    const received = receive(this.#socket, into);
    if (received === undefined) return false;
    if (received.byteCount === 0) {
      this[Symbol.dispose](); // CRIU ends, and whoever waits for that says why
      return false;
    }
    if (this.#process === undefined) this.#takeNumber(received.byteCount);
    else if (received.fd === undefined) throw new DmigrateError("PROTOCOL", "CRIU's restore sent no userfaultfd for a task");
    else {
      this.#listener.task(this.#process, received.fd);
      this.#process = undefined;
    }
    return true;
  }

  #takeNumber(byteCount: number): void {
    this.#numberBytes += byteCount;
    if (this.#numberBytes < NUMBER_BYTES) return;
    this.#numberBytes = 0;
    const number = this.#number.readInt32LE(0);
    if (number === RESTORE_FINISHED) this[Symbol.dispose]();
    else if (number > 0) this.#process = number;
  }
}
