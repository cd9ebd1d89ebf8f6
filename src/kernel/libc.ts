/**
 * The C library: how a call is declared, how its failure becomes an error that names it, and how a descriptor is waited for.
 *
 * Buffers are handed to calls as themselves, never as addresses: an address would not keep its buffer alive.
 */
import { closeSync, writeSync } from "node:fs";
import { getSystemErrorMap } from "node:util";
import koffi, { type KoffiFunc } from "koffi";
import { DmigrateError } from "../core/errors.ts";

const libc = koffi.load(null); // the one that Node itself is linked with

/** Declares a function of the C library by its prototype, for example `declare<(fd: number) => number>("int close(int fd)")`. */
export function declare<F extends (...args: never[]) => unknown>(prototype: string): KoffiFunc<F> {
  return libc.func(prototype) as KoffiFunc<F>; // the caller states the types of the prototype it wrote
}

/**
 * Returns what `call` returned, or throws KERNEL if that is -1. Stands directly around the call: errno lasts only until the next one.
 *
 * @param call name of the call, for the error
 */
export function must(call: string, result: number): number {
  if (result === -1) throw kernelError(call, koffi.errno());
  return result;
}

/** `must` for a call that may have nothing to give: undefined where it would throw one of `errnos`. */
export function mustUnless(call: string, result: number, ...errnos: readonly number[]): number | undefined {
  if (result !== -1) return result;
  const errno = koffi.errno();
  if (errnos.includes(errno)) return undefined;
  throw kernelError(call, errno);
}

/** What `call` returned, or the negative errno if that is -1: for a call whose failures are answers. Stands directly around the call. */
export function orErrno(result: number): number {
  return result === -1 ? -koffi.errno() : result;
}

/** Where the bytes of a buffer lie, for a structure that points to them. The buffer must stay in use until the call with it is over. */
export function addressOf(bytes: Uint8Array): bigint {
  return koffi.address(bytes);
}

/** The KERNEL error of a call; its cause carries `code` (like "ENOENT"), `errno` and `syscall` as Node's own errors do. */
export function kernelError(call: string, errno: number): DmigrateError {
  const [code, text] = getSystemErrorMap().get(-errno) ?? [`errno ${errno}`, "unknown error"];
  const cause = Object.assign(new Error(`${call}: ${code}, ${text}`), { code, errno: -errno, syscall: call });
  return new DmigrateError("KERNEL", `${call} failed: ${code}, ${text}; see \`man ${call}\` and check that the agent runs as root`, cause);
}

/** Whether `error` is the KERNEL error of a call that failed with `code`, like "ENOENT". */
export function failedWith(code: string, error: unknown): boolean {
  return error instanceof DmigrateError && error.cause instanceof Error && "code" in error.cause && error.cause.code === code;
}

const POLLIN = 1;
const EFD_CLOEXEC = 0o2000000;
const EINTR = 4;
const eventfd = declare<(initial: number, flags: number) => number>("int eventfd(unsigned int initval, int flags)");
const poll = declare<(fds: Buffer, count: number, timeoutMs: number) => number>("int poll(void *fds, unsigned long nfds, int timeout)");

/**
 * Waits until `fd` can be read, or has failed: true; or until `signal` is aborted: false. For descriptors that Node's own event loop
 * can't watch (poll(2), eventfd(2)).
 *
 * Each wait holds a thread of libuv's pool, which file system calls, DNS and crypto use too: a process with several waits at a
 * time must be started with UV_THREADPOOL_SIZE above their number, by four or more.
 */
export async function readable(fd: number, signal: AbortSignal): Promise<boolean> {
  if (signal.aborted) return false;
  const wake = must("eventfd", eventfd(0, EFD_CLOEXEC));
  const onAbort = (): void => void writeSync(wake, new BigUint64Array([1n]));
  signal.addEventListener("abort", onAbort);
  try {
    await pollForInput(fd, wake);
    return !signal.aborted;
  } finally {
    signal.removeEventListener("abort", onAbort);
    closeSync(wake);
  }
}

function pollForInput(...fds: readonly number[]): Promise<void> {
  const entries = Buffer.alloc(8 * fds.length); // struct pollfd: int fd, short events, short revents
  for (const [i, fd] of fds.entries()) {
    entries.writeInt32LE(fd, 8 * i);
    entries.writeInt16LE(POLLIN, 8 * i + 4);
  }
  return new Promise((resolve, reject) => {
    const wait = (): void => {
      poll.async(entries, fds.length, -1, (error: unknown, result: number) => {
        const errno = result === -1 ? koffi.errno() : 0;
        if (error !== null) reject(DmigrateError.from(error));
        else if (errno === EINTR) wait();
        else if (errno !== 0) reject(kernelError("poll", errno));
        else resolve();
      });
    };
    wait();
  });
}
