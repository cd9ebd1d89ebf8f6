/**
 * The lazy pages of one process, and what became of each on its way to `criu lazy-pages`. Pure.
 */
import type { PageRun } from "./page-protocol.ts";
import { PageRanges, type PageRange } from "./page-ranges.ts";

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
  readonly #ranges: PageRanges;

  /** @param ranges in ascending order */
  constructor(process: number, ranges: readonly PageRange[]) {
    this.#ranges = new PageRanges(ranges);
    this.process = process;
    this.pageCount = this.#ranges.pageCount;
    this.parcelIds = new Int32Array(this.pageCount).fill(FRESH);
    this.ahead = { space: this, from: 0, end: this.pageCount };
  }

  /** Index of a run's first page; undefined if the run does not lie in one range. */
  indexOf({ page, pageCount }: PageRun): number | undefined {
    return this.#ranges.indexOf(page, pageCount);
  }

  /** The run of `pageCount` pages from `index` on, cut at the end of a range. */
  runAt(index: number, pageCount: number): PageRun {
    return { process: this.process, ...this.#ranges.at(index, pageCount) };
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
