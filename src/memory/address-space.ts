/**
 * The lazy pages of one process, counted in the order of their addresses, and what became of each. Pure.
 */
import type { PageRun } from "./page-protocol.ts";

/** A range of pages that the source can be asked for; one GET must not reach beyond its end. */
export interface PageRange {
  /** The first page: its address divided by the page size. */
  readonly page: number;
  readonly pageCount: number;
}

/** Pages from the one at index `from` up to the one before `end`. */
export interface Trail {
  readonly space: AddressSpace;
  from: number;
  readonly end: number;
}

/** Instead of a parcel's id: never asked for. */
export const FRESH = -1;
/** Instead of a parcel's id: the client has it. */
export const TAKEN = -2;

export class AddressSpace {
  readonly process: number;
  readonly pageCount: number;
  /** Of each page the id of the parcel it was last asked for in, FRESH or TAKEN. */
  readonly parcelIds: Int32Array;
  /** What is still to be asked for ahead of the client. */
  readonly ahead: Trail;
  /** Here the client asks next in the background. */
  clientAt = 0;
  readonly #ranges: readonly PageRange[];
  /** Index of each range's first page. */
  readonly #starts: readonly number[];

  /** @param ranges in ascending order */
  constructor(process: number, ranges: readonly PageRange[]) {
    let pageCount = 0;
    this.#starts = ranges.map((range) => (pageCount += range.pageCount) - range.pageCount);
    this.#ranges = ranges;
    this.process = process;
    this.pageCount = pageCount;
    this.parcelIds = new Int32Array(pageCount).fill(FRESH);
    this.ahead = { space: this, from: 0, end: pageCount };
  }

  /** Index of a run's first page; undefined if the run does not lie in one range. */
  indexOf({ page, pageCount }: PageRun): number | undefined {
    const at = lastAtMost(page, this.#ranges.length, (n) => this.#ranges[n]?.page);
    const [range, start] = [this.#ranges[at], this.#starts[at]];
    if (range === undefined || start === undefined || page + pageCount > range.page + range.pageCount) return undefined;
    return start + page - range.page;
  }

  /** The run of `pageCount` pages from `index` on, cut at the end of a range. */
  runAt(index: number, pageCount: number): PageRun {
    const at = lastAtMost(index, this.#starts.length, (n) => this.#starts[n]);
    const [range, start] = [this.#ranges[at], this.#starts[at]];
    if (range === undefined || start === undefined) throw new RangeError(`No page ${index} in process ${this.process}`);
    const page = range.page + index - start;
    return { process: this.process, page, pageCount: Math.min(pageCount, range.page + range.pageCount - page) };
  }

  /** The aligned block of `blockPages` that `index` lies in. */
  blockAround(index: number, blockPages: number): Trail {
    const from = index - (index % blockPages);
    return { space: this, from, end: Math.min(from + blockPages, this.pageCount) };
  }

  /** The client asks for a range in the background; it goes in the order of addresses, so it will go on behind it. */
  follow(index: number, pageCount: number): void {
    if (this.parcelIds[index] === TAKEN) return this.#forget(index, pageCount);
    this.clientAt = index;
    if (this.ahead.from < index) this.ahead.from = index;
  }

  /** The client has the page. */
  take(index: number): void {
    this.parcelIds[index] = TAKEN;
    while (this.parcelIds[this.clientAt] === TAKEN) this.clientAt++;
  }

  /** The child of a fork wants what its parent got. */
  #forget(index: number, pageCount: number): void {
    for (let at = index; at < index + pageCount; at++) if (this.parcelIds[at] === TAKEN) this.parcelIds[at] = FRESH;
  }
}

/** Which of `count` ascending values is the last that is at most `limit`; -1 if none is. */
function lastAtMost(limit: number, count: number, valueAt: (at: number) => number | undefined): number {
  let low = -1;
  for (let high = count; high - low > 1;) {
    const middle = (low + high) >> 1;
    if ((valueAt(middle) ?? Infinity) <= limit) low = middle;
    else high = middle;
  }
  return low;
}
