/**
 * Tracks by comparison with what was copied, for what no kernel notes: costs the process nothing, and each call 0.5 ms for each megabyte
 * of it, in which the process stands still. So this is for little memory, of which it keeps a copy (docs/dirty-tracking.md).
 */
import { DmigrateError } from "../../core/errors.ts";
import { appendRange, Pagemap, type AddressRange } from "../../kernel/pagemap.ts";
import { readMemory } from "../../kernel/process-memory.ts";
import { PAGE_BYTES } from "../page-protocol.ts";
import { trackedMappings, type DirtyTracker } from "./tracker.ts";

/** So much is compared at once. */
const READ_BYTES = 1 << 20;

/** How many pages may be compared, of several processes together. */
export class ComparisonBudget {
  #left: number;

  constructor(pageCount: number) {
    this.#left = pageCount;
  }

  /** Takes some more, or gives some back. Throws KERNEL if they are not left. */
  take(pageCount: number): void {
    if (pageCount > this.#left) throw new DmigrateError("KERNEL", `${pageCount} pages are too many to be compared in the freeze`);
    this.#left -= pageCount;
  }
}

export class ComparisonTracker implements DirtyTracker {
  readonly #pid: number;
  readonly #budget: ComparisonBudget;
  #takenCount = 0;
  /** The pages that were read, by their addresses. */
  #copies = new Map<number, Buffer>();

  private constructor(pid: number, budget: ComparisonBudget) {
    this.#pid = pid;
    this.#budget = budget;
  }

  /** Throws KERNEL if it has more memory than may be compared; ENOENT or ESRCH if it has ended. */
  static async begin(pid: number, budget: ComparisonBudget): Promise<ComparisonTracker> {
    const tracker = new ComparisonTracker(pid, budget);
    tracker.#present();
    return tracker;
  }

  async follow(): Promise<void> {
    // Memory is compared, whatever program it is of.
  }

  written(): AddressRange[] {
    const ranges = this.#present();
    const copies = new Map<number, Buffer>();
    const found = this.#differing(ranges, (address, copy) => copies.set(address, copy));
    this.#copies = copies;
    return found;
  }

  writtenByNow(): AddressRange[] {
    return this.#differing(this.#present(), () => {});
  }

  /** What was read between two calls may be neither what was there at the first nor at the second: so it is kept, not what was compared. */
  copied(address: number, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += PAGE_BYTES) this.#copies.set(address + at, Buffer.from(bytes.subarray(at, at + PAGE_BYTES)));
  }

  /** The pages that are there. Throws KERNEL if they are too many. */
  #present(): AddressRange[] {
    using pagemap = new Pagemap(this.#pid);
    const ranges = trackedMappings(this.#pid).flatMap((mapping) => pagemap.presentByReading(mapping));
    const pageCount = ranges.reduce((sum, { start, end }) => sum + (end - start) / PAGE_BYTES, 0);
    this.#budget.take(pageCount - this.#takenCount);
    this.#takenCount = pageCount;
    return ranges;
  }

  /** @param same gets the pages that do not differ */
  #differing(ranges: readonly AddressRange[], same: (address: number, copy: Buffer) => void): AddressRange[] {
    const found: AddressRange[] = [];
    const bytes = Buffer.allocUnsafe(READ_BYTES);
    for (const { start, end } of ranges) {
      for (let from = start; from < end; from += READ_BYTES) {
        const block = bytes.subarray(0, Math.min(READ_BYTES, end - from));
        const readBytes = readMemory(this.#pid, from, block);
        for (let at = 0; at < block.length; at += PAGE_BYTES) {
          const copy = this.#copies.get(from + at);
          const isSame = at + PAGE_BYTES <= readBytes && copy?.equals(block.subarray(at, at + PAGE_BYTES)) === true;
          if (isSame) same(from + at, copy);
          else appendRange(found, from + at, from + at + PAGE_BYTES);
        }
      }
    }
    return found;
  }

  [Symbol.dispose](): void {
    this.#budget.take(-this.#takenCount);
    this.#takenCount = 0;
    this.#copies.clear();
  }
}
