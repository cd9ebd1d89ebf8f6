/** Lazy ranges for tests, from the gaps between them. */
import type { PageRange } from "./page-ranges.ts";

/** Ranges in ascending order that do not overlap. */
export function rangesOf(gaps: readonly (readonly [gap: number, pageCount: number])[]): PageRange[] {
  let page = 16;
  return gaps.map(([gap, pageCount]) => {
    const range = { page: page + gap, pageCount };
    page += gap + pageCount;
    return range;
  });
}
