/**
 * A set of pages of one address space. Pure.
 */
import type { PageRange } from "./page-ranges.ts";

/** Its pages are kept in blocks of so many, each a byte: a block that has none takes no room. */
const BLOCK_PAGES = 4096;
const NONE = new Uint8Array(BLOCK_PAGES);

export class PageSet {
  readonly #blocks = new Map<number, Uint8Array>();
  #pageCount = 0;

  /** How many it has. */
  get pageCount(): number {
    return this.#pageCount;
  }

  has(page: number): boolean {
    return this.#blocks.get(Math.floor(page / BLOCK_PAGES))?.[page % BLOCK_PAGES] === 1;
  }

  add({ page, pageCount }: PageRange): void {
    this.#set(page, page + pageCount, 1);
  }

  delete({ page, pageCount }: PageRange): void {
    this.#set(page, page + pageCount, 0);
  }

  /** Those of a range that it has, as runs in ascending order. */
  *within({ page, pageCount }: PageRange): Generator<PageRange, void> {
    const end = page + pageCount;
    let start: number | undefined; // of a run that is not over
    for (let at = page; at < end;) {
      const base = at - (at % BLOCK_PAGES);
      const last = Math.min(end, base + BLOCK_PAGES);
      const pages = this.#blocks.get(base / BLOCK_PAGES) ?? NONE;
      const found = pages.indexOf(start === undefined ? 1 : 0, at - base);
      at = found < 0 ? last : Math.min(last, base + found);
      if (at === last) continue;
      if (start === undefined) start = at;
      else {
        yield { page: start, pageCount: at - start };
        start = undefined;
      }
    }
    if (start !== undefined) yield { page: start, pageCount: end - start };
  }

  #set(start: number, end: number, value: 0 | 1): void {
    for (let at = start; at < end;) {
      const block = Math.floor(at / BLOCK_PAGES);
      const first = at % BLOCK_PAGES;
      const next = Math.min(end, at - first + BLOCK_PAGES);
      const pages = this.#blocks.get(block) ?? (value === 1 ? this.#newBlock(block) : undefined);
      if (pages !== undefined) {
        for (let nth = first; nth < first + next - at; nth++) {
          this.#pageCount += value - (pages[nth] ?? 0);
          pages[nth] = value;
        }
      }
      at = next;
    }
  }

  #newBlock(block: number): Uint8Array {
    const pages = new Uint8Array(BLOCK_PAGES);
    this.#blocks.set(block, pages);
    return pages;
  }
}
