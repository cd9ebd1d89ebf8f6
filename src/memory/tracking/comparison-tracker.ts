/**
 * Tracks by comparison: reads all memory at each call and keeps a digest of every page. For kernels without any other means; costs the
 * process nothing, and the host about a second of a processor for each gigabyte and call.
 */
import { hash } from "node:crypto";
import { setImmediate as letOthersRun } from "node:timers/promises";
import { appendRange, Pagemap, type AddressRange } from "../../kernel/pagemap.ts";
import { readMemory } from "../../kernel/process-memory.ts";
import { PAGE_BYTES } from "../page-protocol.ts";
import { trackedMappings, type DirtyTracker } from "./tracker.ts";

/** So much is read at once, and has its digests in one buffer. */
const BLOCK_BYTES = 1 << 20;
const ALGORITHM = "sha1"; // the quickest that Node has
const DIGEST_BYTES = 16;
const NO_DIGEST = Buffer.alloc(DIGEST_BYTES);

export class ComparisonTracker implements DirtyTracker {
  readonly #pid: number;
  /** Of each page, at its place in the buffer of its block, what it was when it was told; zeros for one that was not. */
  #digests = new Map<number, Buffer>();

  constructor(pid: number) {
    this.#pid = pid;
  }

  async follow(): Promise<void> {
    // Memory is compared, whatever program it is of.
  }

  async written(): Promise<readonly AddressRange[]> {
    using pagemap = new Pagemap(this.#pid);
    const digests = new Map<number, Buffer>();
    const found: AddressRange[] = [];
    for (const mapping of trackedMappings(this.#pid)) {
      for (const { start, end } of pagemap.presentByReading(mapping)) {
        for (let at = start; at < end;) {
          const next = Math.min(end, at - (at % BLOCK_BYTES) + BLOCK_BYTES);
          this.#compare(at, next, digests, found);
          at = next;
          await letOthersRun();
        }
      }
    }
    this.#digests = digests;
    return found;
  }

  /** Compares pages of one block. */
  #compare(start: number, end: number, digests: Map<number, Buffer>, found: AddressRange[]): void {
    const block = Math.floor(start / BLOCK_BYTES);
    const old = this.#digests.get(block);
    const now = digests.get(block) ?? Buffer.alloc((BLOCK_BYTES / PAGE_BYTES) * DIGEST_BYTES);
    digests.set(block, now);
    const bytes = Buffer.allocUnsafe(end - start);
    const readBytes = readMemory(this.#pid, start, bytes);
    for (let at = start; at < end; at += PAGE_BYTES) {
      const offset = at - start;
      const place = ((at % BLOCK_BYTES) / PAGE_BYTES) * DIGEST_BYTES;
      const isRead = offset + PAGE_BYTES <= readBytes; // what can't be read is told each time
      if (isRead) hash(ALGORITHM, bytes.subarray(offset, offset + PAGE_BYTES), "buffer").copy(now, place, 0, DIGEST_BYTES);
      const digest = now.subarray(place, place + DIGEST_BYTES);
      if (!isRead || !digest.equals(old?.subarray(place, place + DIGEST_BYTES) ?? NO_DIGEST)) appendRange(found, at, at + PAGE_BYTES);
    }
  }

  [Symbol.dispose](): void {
    this.#digests.clear();
  }
}
