/**
 * Which pages of a process are there, and which were written since they were looked at last (proc_pid_pagemap(5), and PAGEMAP_SCAN of the
 * kernel's Documentation/admin-guide/mm/pagemap.rst, Linux 6.7).
 */
import { closeSync, openSync, readSync, writeFileSync } from "node:fs";
import { addressOf, declare, kernelError, orErrno } from "./libc.ts";

const PAGEMAP_SCAN = 0xc0606610;
const ARGUMENT = {
  SIZE: 0,
  FLAGS: 1,
  START: 2,
  END: 3,
  WALK_END: 4,
  VECTOR: 5,
  VECTOR_LENGTH: 6,
  INVERTED: 8,
  ALL_OF: 9,
  ANY_OF: 10,
  RETURN: 11,
};
const ARGUMENT_WORDS = 12; // struct pm_scan_arg
const PROTECT_MATCHING = 1n;
const CHECK_PROTECTION = 2n;
const PAGE_IS = { WRITTEN: 2n, FILE: 4n, PRESENT: 8n, SWAPPED: 16n, ZERO: 32n };
const REGION_WORDS = 3; // struct page_region: u64 start, end, categories
const REGIONS_MAX = 4096;
const EPERM = 1;
/** An entry of the file is two words; of the higher one, bits 63, 62, 61 and 55 of the entry. */
const ENTRY_BYTES = 8;
const ENTRY_HIGH = { PRESENT: 1 << 31, SWAPPED: 1 << 30, FILE: 1 << 29, SOFT_DIRTY: 1 << 23 };
const ENTRY_FRAME_HIGH = ENTRY_HIGH.SOFT_DIRTY - 1;
const ENTRIES_MAX = 1 << 16;
/** What to write into /proc/PID/clear_refs: CLEAR_REFS_SOFT_DIRTY (proc_pid_clear_refs(5)). */
const SOFT_DIRTY = "4";
const PAGE_BYTES = 4096;

const ioctl = declare<(fd: number, request: number, argument: BigUint64Array) => number>(
  "int ioctl(int fd, unsigned long request, void *argument)",
);

/** Bytes `start` up to the one before `end`, whole pages. */
export interface AddressRange {
  readonly start: number;
  readonly end: number;
}

/** Whether this kernel has PAGEMAP_SCAN. */
export function canScan(): boolean {
  using own = new Pagemap(process.pid);
  return own.scans;
}

/**
 * Begins anew to note which pages of a process are written (the kernel's Documentation/admin-guide/mm/soft-dirty.rst). What it writes
 * between a `Pagemap.read` and this is forgotten. A kernel that can't note it does nothing. Throws ENOENT or ESRCH if it has ended.
 */
export function cleanSoftDirty(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, SOFT_DIRTY);
}

/** The page tables of one address space: of what the process runs at the time when this is opened, even if it runs something else later. */
export class Pagemap implements Disposable {
  readonly #fd: number;
  readonly #argument = new BigUint64Array(ARGUMENT_WORDS);
  readonly #regions = new BigUint64Array(REGIONS_MAX * REGION_WORDS);

  /** Throws ENOENT or ESRCH if the process has ended. */
  constructor(pid: number) {
    this.#fd = openSync(`/proc/${pid}/pagemap`, "r");
  }

  /** Whether the kernel can scan it. */
  get scans(): boolean {
    return ioctl(this.#fd, PAGEMAP_SCAN, this.#ask({ start: 0, end: 0 }, 0n, 0n, 0n)) >= 0;
  }

  /** The pages with content of the process's own: neither zeros that nobody wrote, nor a file's. Ascending. Throws KERNEL. */
  present(range: AddressRange): AddressRange[] {
    return this.#scan(range, 0n, PAGE_IS.ZERO | PAGE_IS.FILE, 0n) ?? [];
  }

  /**
   * The pages that were protected (`WriteProtection.protect`) and not written since, whether they are there or not. Ascending. undefined if
   * the range, or a part of it, is not tracked. Throws KERNEL.
   * @param range within one mapping
   */
  protectedPages(range: AddressRange): AddressRange[] | undefined {
    return this.#scan(range, CHECK_PROTECTION, PAGE_IS.WRITTEN, 0n);
  }

  /** Like `present`, on any kernel, many times as slow; with pages that nobody wrote among them. */
  presentByReading(range: AddressRange): AddressRange[] {
    const found: AddressRange[] = [];
    this.read(range, (address) => appendRange(found, address, address + PAGE_BYTES));
    return found;
  }

  /**
   * Tells of each page of `presentByReading` where its content lies, and whether it was perhaps written since the last `cleanSoftDirty`.
   * @param each gets for `frame` a number that no two pages of the system have in common but such as share their content; 0, if that is
   * not for this process to know
   */
  read({ start, end }: AddressRange, each: (address: number, frame: number, isSoftDirty: boolean) => void): void {
    const words = new Int32Array(2 * Math.min(ENTRIES_MAX, (end - start) / PAGE_BYTES));
    const bytes = new Uint8Array(words.buffer);
    for (let at = start; at < end;) {
      const wanted = Math.min(bytes.length, ((end - at) / PAGE_BYTES) * ENTRY_BYTES);
      const got = readSync(this.#fd, bytes, 0, wanted, (at / PAGE_BYTES) * ENTRY_BYTES);
      if (got === 0) break; // the process has ended
      for (let word = 0; word < got / 4; word += 2, at += PAGE_BYTES) {
        const high = words[word + 1] ?? 0;
        if ((high & (ENTRY_HIGH.PRESENT | ENTRY_HIGH.SWAPPED)) === 0 || (high & ENTRY_HIGH.FILE) !== 0) continue;
        const frame = (high & ENTRY_FRAME_HIGH) * 2 ** 32 + ((words[word] ?? 0) >>> 0);
        each(at, (high & ENTRY_HIGH.SWAPPED) === 0 ? frame : -frame - 1, (high & ENTRY_HIGH.SOFT_DIRTY) !== 0);
      }
    }
  }

  /**
   * Those of them that were written since the last call, at the first call all; each is write-protected again at the moment at which it
   * is told. undefined if the range, or a part of it, is not tracked: it lies in mappings that are not registered for asynchronous write
   * protection. What was written there may have been forgotten then. Throws KERNEL.
   * @param range within one mapping
   */
  written(range: AddressRange): AddressRange[] | undefined {
    return this.#scan(range, PROTECT_MATCHING | CHECK_PROTECTION, PAGE_IS.ZERO | PAGE_IS.FILE, PAGE_IS.WRITTEN);
  }

  /** What to pass to the kernel. */
  #ask({ start, end }: AddressRange, flags: bigint, without: bigint, withAll: bigint): BigUint64Array {
    const argument = this.#argument;
    argument.fill(0n);
    argument[ARGUMENT.SIZE] = BigInt(argument.byteLength);
    argument[ARGUMENT.FLAGS] = flags;
    argument[ARGUMENT.START] = BigInt(start);
    argument[ARGUMENT.END] = BigInt(end);
    argument[ARGUMENT.VECTOR] = addressOf(new Uint8Array(this.#regions.buffer));
    argument[ARGUMENT.VECTOR_LENGTH] = BigInt(REGIONS_MAX);
    argument[ARGUMENT.INVERTED] = without;
    argument[ARGUMENT.ALL_OF] = without | withAll;
    argument[ARGUMENT.ANY_OF] = PAGE_IS.PRESENT | PAGE_IS.SWAPPED;
    argument[ARGUMENT.RETURN] = PAGE_IS.PRESENT;
    return argument;
  }

  /** Like `written`, without a new beginning: they will be told again. */
  writtenByNow(range: AddressRange): AddressRange[] | undefined {
    return this.#scan(range, CHECK_PROTECTION, PAGE_IS.ZERO | PAGE_IS.FILE, PAGE_IS.WRITTEN);
  }

  #scan(range: AddressRange, flags: bigint, without: bigint, withAll: bigint): AddressRange[] | undefined {
    const argument = this.#ask(range, flags, without, withAll);
    const found: AddressRange[] = [];
    for (let at = BigInt(range.start); at < BigInt(range.end); at = argument[ARGUMENT.WALK_END] ?? 0n) {
      argument[ARGUMENT.START] = at;
      const count = orErrno(ioctl(this.#fd, PAGEMAP_SCAN, argument));
      if (count === -EPERM) return undefined;
      if (count < 0) throw kernelError("PAGEMAP_SCAN", -count);
      for (let word = 0; word < count * REGION_WORDS; word += REGION_WORDS)
        appendRange(found, Number(this.#regions[word]), Number(this.#regions[word + 1]));
    }
    return found;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

/** Adds a range behind the others: it may go on where the last one ends. */
export function appendRange(ranges: AddressRange[], start: number, end: number): void {
  const last = ranges.at(-1);
  if (last?.end === start) ranges[ranges.length - 1] = { start: last.start, end };
  else ranges.push({ start, end });
}
