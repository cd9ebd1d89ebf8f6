/**
 * A set of pages of one address space. Pure.
 */
import type { PageRange } from "./page-ranges.ts";

/** Its pages are kept in blocks of so many, each a byte: a block that has none takes no room. */
const BLOCK_PAGES = 4096;

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
    for (let at = page; at < end;) {
      let next = at;
      while (next < end && this.has(next)) next += 1;
      if (next > at) yield { page: at, pageCount: next - at };
      at = next > at ? next : this.#nextBlockWithSome(at, end);
    }
  }

  /** The page behind one that is not here; beyond the rest of its block if that has none. */
  #nextBlockWithSome(page: number, end: number): number {
    const hasBlock = this.#blocks.has(Math.floor(page / BLOCK_PAGES));
    return hasBlock ? page + 1 : Math.min(end, page - (page % BLOCK_PAGES) + BLOCK_PAGES);
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
