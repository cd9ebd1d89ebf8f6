/**
 * Waiting for any of many descriptors that Node's own event loop can't watch (epoll(7)).
 */
import { closeSync, writeSync } from "node:fs";
import { DmigrateError } from "../core/errors.ts";
import { declare, kernelError, must, orErrno } from "./libc.ts";

const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLLIN = 1;
const EINTR = 4;
const EVENT_BYTES = process.arch === "x64" ? 12 : 16; // struct epoll_event: u32 events; u64 data; packed on x86-64 alone
const DATA_AT = EVENT_BYTES - 8;
const EVENTS_MAX = 64;

const epollCreate = declare<(flags: number) => number>("int epoll_create1(int flags)");
const epollCtl = declare<(epoll: number, operation: number, fd: number, event: Uint8Array) => number>(
  "int epoll_ctl(int epfd, int op, int fd, void *event)",
);
const epollWait = declare<(epoll: number, events: Uint8Array, max: number, timeoutMs: number) => number>(
  "int epoll_wait(int epfd, void *events, int maxevents, int timeout)",
);
const eventfd = declare<(initial: number, flags: number) => number>("int eventfd(unsigned int initval, int flags)");

/** Those that were not disposed of. The end of the process would wait for their threads, and so for ever. */
const waiting = new Set<Disposable>();
process.on("exit", () => {
  for (const watch of waiting) watch[Symbol.dispose]();
});

/**
 * Calls whoever waits for a descriptor each time it can be read or has failed, again as long as that holds. All of them share one
 * thread of libuv's pool (see `readable`).
 */
export class InputWatch implements Disposable {
  readonly #epoll = must("epoll_create1", epollCreate(EPOLL_CLOEXEC));
  readonly #wake = must("eventfd", eventfd(0, EPOLL_CLOEXEC));
  readonly #listeners = new Map<number, () => void>();
  readonly #events = Buffer.alloc(EVENTS_MAX * EVENT_BYTES);
  #isDisposed = false;

  constructor() {
    this.#control(EPOLL_CTL_ADD, this.#wake);
    this.#wait();
    waiting.add(this);
  }

  /** Throws KERNEL if `fd` can't be waited for. */
  add(fd: number, listener: () => void): void {
    this.#control(EPOLL_CTL_ADD, fd);
    this.#listeners.set(fd, listener);
  }

  /** To be called before `fd` is closed. */
  delete(fd: number): void {
    if (this.#listeners.delete(fd)) this.#control(EPOLL_CTL_DEL, fd);
  }

  [Symbol.dispose](): void {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    waiting.delete(this);
    this.#listeners.clear();
    writeSync(this.#wake, new BigUint64Array([1n]));
  }

  #control(operation: number, fd: number): void {
    const event = Buffer.alloc(EVENT_BYTES);
    event.writeUInt32LE(EPOLLIN, 0);
    event.writeInt32LE(fd, DATA_AT);
    must("epoll_ctl", epollCtl(this.#epoll, operation, fd, event));
  }

  #wait(): void {
    epollWait.async(this.#epoll, this.#events, EVENTS_MAX, -1, (error: unknown, result: number) => {
      const count = orErrno(result);
      if (this.#isDisposed) return this.#close();
      if (error !== null) throw DmigrateError.from(error);
      if (count < 0 && count !== -EINTR) throw kernelError("epoll_wait", -count);
      for (let at = 0; at < count; at++) this.#listeners.get(this.#events.readInt32LE(at * EVENT_BYTES + DATA_AT))?.();
      if (this.#isDisposed) this.#close();
      else this.#wait();
    });
  }

  #close(): void {
    closeSync(this.#epoll);
    closeSync(this.#wake);
  }
}
