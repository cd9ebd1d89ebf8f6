/** Memory that the kernel may drop, as CRIU's images tell of it, and the page maps without it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { droppableIn } from "./droppable.ts";
import { numberField } from "./image-entries.ts";
import { bytesField, imageOf } from "./image-fixture.ts";
import { lazyRanges, withLazyRanges, withoutLazyPages, type PageRange } from "./pagemap.ts";

const PAGE_BYTES = 4096;
const [PRIVATE, DROPPABLE, ANONYMOUS] = [2, 8, 0x20];

function mapping(page: number, pageCount: number, flags: number): number[] {
  return bytesField(14, [
    ...numberField(1, page * PAGE_BYTES),
    ...numberField(2, (page + pageCount) * PAGE_BYTES),
    ...numberField(6, flags),
  ]);
}

test("droppable mappings are told from private ones", () => {
  const mm = [
    ...numberField(1, 4096),
    ...mapping(16, 4, PRIVATE | ANONYMOUS),
    ...mapping(20, 1, DROPPABLE | ANONYMOUS),
    ...mapping(2 ** 34, 2, DROPPABLE | ANONYMOUS),
  ];
  assert.deepEqual(droppableIn(imageOf(0x57492820, [mm])), [
    { page: 20, pageCount: 1 },
    { page: 2 ** 34, pageCount: 2 },
  ]);
});

/** In ascending order, with gaps or without. */
const ranges: fc.Arbitrary<PageRange[]> = fc.array(fc.tuple(fc.nat(3), fc.integer({ min: 1, max: 5 })), { maxLength: 8 }).map((all) => {
  let from = 0;
  return all.map(([gap, pageCount]) => {
    const range = { page: from + gap, pageCount };
    from = range.page + pageCount;
    return range;
  });
});

function pagesIn(all: readonly PageRange[]): number[] {
  return all.flatMap(({ page, pageCount }) => Array.from({ length: pageCount }, (_, at) => page + at));
}

test("a page map without some places has all of its other lazy pages, and what is in the images", () => {
  fc.assert(
    fc.property(ranges, ranges, (lazy, places) => {
      const dumped = [...numberField(1, 2 ** 30 * PAGE_BYTES), ...numberField(2, 1), ...numberField(4, 4)];
      const image = imageOf(0x56084025, [numberField(1, 1), dumped]);
      const amended = withLazyRanges(
        image,
        lazy.map(({ page, pageCount }) => ({ start: page * PAGE_BYTES, end: (page + pageCount) * PAGE_BYTES })),
      );
      const left = withoutLazyPages(amended, places);
      const gone = new Set(pagesIn(places));
      assert.deepEqual(
        pagesIn(lazyRanges(left)),
        pagesIn(lazy).filter((page) => !gone.has(page)),
      );
      assert.deepEqual(
        withoutLazyPages(
          left,
          pagesIn(lazy).map((page) => ({ page, pageCount: 1 })),
        ),
        image,
      );
    }),
  );
});
