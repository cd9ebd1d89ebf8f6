/**
 * The memory of other processes, read and written without stopping them (process_vm_readv(2), proc_pid_mem(5)).
 */
import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { DmigrateError } from "../core/errors.ts";
import { addressOf, declare, kernelError, orErrno } from "./libc.ts";

const readv = declare<
  (pid: number, local: BigUint64Array, localCount: number, remote: BigUint64Array, remoteCount: number, flags: number) => number
>("long process_vm_readv(int pid, void *local, unsigned long liovcnt, void *remote, unsigned long riovcnt, unsigned long flags)");

const local = new BigUint64Array(2);
const remote = new BigUint64Array(2);
const EFAULT = 14;
const ESRCH = 3;

/**
 * Reads memory of a process from an address on. Returns how many bytes could be read: fewer than asked for where a mapping ends or
 * can't be read. Throws KERNEL, with cause ESRCH if the process has ended.
 */
export function readMemory(pid: number, address: number, into: Uint8Array): number {
  local[0] = addressOf(into);
  local[1] = BigInt(into.length);
  remote[0] = BigInt(address);
  remote[1] = BigInt(into.length);
  const result = orErrno(readv(pid, local, 1, remote, 1, 0));
  if (result === -EFAULT) return 0;
  if (result < 0) throw kernelError("process_vm_readv", -result);
  return result;
}

/** So many pieces can be read at once (IOV_MAX). */
export const PIECES_MAX = 1024;

/**
 * Reads pieces of a process's memory, one behind the other, on another thread: while it copies, this one is free. Returns how many bytes
 * could be read: fewer than asked for where a piece lies in what is not there, or can't be read. `into` must not be used meanwhile.
 * Throws KERNEL, with cause ESRCH if the process has ended.
 *
 * Each call holds a thread of libuv's pool as long as it reads (see `readable` in libc.ts).
 * @param pieces up to PIECES_MAX; as long as `into` together
 */
export async function readMemoryApart(
  pid: number,
  pieces: readonly { readonly address: number; readonly byteCount: number }[],
  into: Uint8Array,
): Promise<number> {
  const from = new BigUint64Array(2 * pieces.length);
  for (const [at, { address, byteCount }] of pieces.entries()) {
    from[2 * at] = BigInt(address);
    from[2 * at + 1] = BigInt(byteCount);
  }
  const to = new BigUint64Array([addressOf(into), BigInt(into.length)]);
  const result = await new Promise<number>((resolve, reject) => {
    readv.async(pid, to, 1, from, pieces.length, 0, (error: unknown, count: number) => {
      if (error !== null) reject(DmigrateError.from(error));
      else resolve(Math.min(orErrno(count), into.length)); // `into` has to be there until now, and the kernel does not keep it
    });
  });
  if (result === -EFAULT) return 0;
  if (result < 0) throw kernelError("process_vm_readv", -result);
  return result;
}

/**
 * Reads all of it, also what the process may not read itself just now (mprotect(2)): slower. Throws KERNEL if there is no mapping, or the
 * process has ended.
 */
export function readAllMemory(pid: number, address: number, into: Uint8Array): void {
  const readBytes = readMemory(pid, address, into);
  if (readBytes === into.length) return;
  const memory = openSync(`/proc/${pid}/mem`, "r");
  try {
    for (let at = readBytes; at < into.length;) {
      const count = readSync(memory, into, at, into.length - at, address + at);
      if (count === 0) throw kernelError("read", ESRCH);
      at += count;
    }
  } catch (error) {
    throw DmigrateError.from(error, "KERNEL");
  } finally {
    closeSync(memory);
  }
}

/** Writes into the memory of a process, also where it may not write itself (proc_pid_mem(5)). */
export function writeMemory(pid: number, address: number, bytes: Uint8Array): void {
  const memory = openSync(`/proc/${pid}/mem`, "r+");
  try {
    writeSync(memory, bytes, 0, bytes.length, address);
  } finally {
    closeSync(memory);
  }
}
