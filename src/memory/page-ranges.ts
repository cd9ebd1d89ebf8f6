/**
 * The lazy pages of one process, counted in the order of their addresses. Pure.
 */
import { lastAtMost } from "./search.ts";

/** A range of pages that the source can be asked for; one GET must not reach beyond its end. */
export interface PageRange {
  /** The first page: its address divided by the page size. */
  readonly page: number;
  readonly pageCount: number;
}

/** A range and the place of its first page among all. */
export interface IndexedRange extends PageRange {
  readonly index: number;
}

export function pageCountOf(ranges: readonly PageRange[]): number {
  return ranges.reduce((sum, { pageCount }) => sum + pageCount, 0);
}

export class PageRanges {
  readonly pageCount: number;
  readonly all: readonly IndexedRange[];

  /** @param ranges in ascending order */
  constructor(ranges: readonly PageRange[]) {
    let pageCount = 0;
    this.all = ranges.map((range) => ({ ...range, index: (pageCount += range.pageCount) - range.pageCount }));
    this.pageCount = pageCount;
  }

  /** Index of the first of `pageCount` pages from `page` on; undefined if they do not lie in one range. */
  indexOf(page: number, pageCount: number): number | undefined {
    const range = this.all[lastAtMost(page, this.all.length, (at) => this.all[at]?.page)];
    if (range === undefined || page + pageCount > range.page + range.pageCount) return undefined;
    return range.index + page - range.page;
  }

  /** The parts of the ranges that lie within `pageCount` pages from `page` on. */
  within(page: number, pageCount: number): IndexedRange[] {
    const parts: IndexedRange[] = [];
    const end = page + pageCount;
    for (
      let at = Math.max(
        0,
        lastAtMost(page, this.all.length, (n) => this.all[n]?.page),
      );
      at < this.all.length;
      at++
    ) {
      const range = this.all[at];
      if (range === undefined || range.page >= end) break;
      const from = Math.max(page, range.page);
      const count = Math.min(end, range.page + range.pageCount) - from;
      if (count > 0) parts.push({ page: from, index: range.index + from - range.page, pageCount: count });
    }
    return parts;
  }

  /** Up to `pageCount` pages from the one at `index` on, cut at the end of a range. Throws RangeError if there is no such page. */
  at(index: number, pageCount: number): PageRange {
    const range = this.all[lastAtMost(index, this.all.length, (at) => this.all[at]?.index)];
    if (range === undefined || index >= this.pageCount) throw new RangeError(`No lazy page ${index} among ${this.pageCount}`);
    const page = range.page + index - range.index;
    return { page, pageCount: Math.min(pageCount, range.page + range.pageCount - page) };
  }
}
