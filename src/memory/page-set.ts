/**
 * A set of pages of one address space. Pure.
 */
import type { PageRange } from "./page-ranges.ts";

/** Its pages are kept in blocks of so many, each a byte: a block that has none takes no room. */
const BLOCK_PAGES = 4096;

/** Pages that follow each other. */
interface Block {
  /** 1 for each that is in the set. */
  readonly pages: Uint8Array;
  pageCount: number;
}

export class PageSet {
  readonly #blocks = new Map<number, Block>();
  #pageCount = 0;

  /** How many it has. */
  get pageCount(): number {
    return this.#pageCount;
  }

  has(page: number): boolean {
    return this.#blocks.get(Math.floor(page / BLOCK_PAGES))?.pages[page % BLOCK_PAGES] === 1;
  }

  add({ page, pageCount }: PageRange): void {
    const end = page + pageCount;
    for (let at = page; at < end; at += BLOCK_PAGES - (at % BLOCK_PAGES)) this.#set(Math.floor(at / BLOCK_PAGES), page, end, 1);
  }

  delete({ page, pageCount }: PageRange): void {
    for (const number of this.#within(page, page + pageCount)) this.#set(number, page, page + pageCount, 0);
  }

  /** Those of a range that it has, as runs in ascending order. */
  *within({ page, pageCount }: PageRange): Generator<PageRange, void> {
    const end = page + pageCount;
    let start: number | undefined; // of a run that is not over
    let last = page; // where the block before ends
    for (const number of this.#within(page, end)) {
      const base = number * BLOCK_PAGES;
      if (start !== undefined && base > last) {
        yield { page: start, pageCount: last - start };
        start = undefined;
      }
      last = Math.min(end, base + BLOCK_PAGES);
      for (let at = Math.max(page, base); at < last;) {
        const found = this.#blocks.get(number)?.pages.indexOf(start === undefined ? 1 : 0, at - base) ?? -1;
        at = found < 0 ? last : Math.min(last, base + found);
        if (at === last) continue;
        if (start === undefined) start = at;
        else {
          yield { page: start, pageCount: at - start };
          start = undefined;
        }
      }
    }
    if (start !== undefined) yield { page: start, pageCount: last - start };
  }

  /** The numbers of the blocks that have some of these pages, in ascending order: a range may be far larger than the set. */
  #within(start: number, end: number): number[] {
    const [first, last] = [Math.floor(start / BLOCK_PAGES), Math.ceil(end / BLOCK_PAGES)];
    if (last - first > this.#blocks.size)
      return [...this.#blocks.keys()].filter((number) => number >= first && number < last).toSorted((a, b) => a - b);
    return Array.from({ length: last - first }, (_, nth) => first + nth).filter((number) => this.#blocks.has(number));
  }

  /** Those of the pages that lie in a block. */
  #set(number: number, start: number, end: number, value: 0 | 1): void {
    const block = this.#blocks.get(number) ?? { pages: new Uint8Array(BLOCK_PAGES), pageCount: 0 };
    const base = number * BLOCK_PAGES;
    const before = block.pageCount;
    for (let nth = Math.max(start - base, 0); nth < Math.min(end - base, BLOCK_PAGES); nth++) {
      block.pageCount += value - (block.pages[nth] ?? 0);
      block.pages[nth] = value;
    }
    this.#pageCount += block.pageCount - before;
    if (block.pageCount === 0) this.#blocks.delete(number);
    else this.#blocks.set(number, block);
  }
}
