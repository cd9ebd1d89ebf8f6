/** A set of pages against one of JavaScript's own. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { PageSet } from "./page-set.ts";

/** Around the borders of blocks, and far away. */
const range = fc.record({
  page: fc.oneof(fc.integer({ min: 4000, max: 4200 }), fc.constant(2 ** 35)),
  pageCount: fc.integer({ min: 1, max: 5000 }),
});

test("what was added is there until it is deleted", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.boolean(), range), { maxLength: 12 }), range, (steps, asked) => {
      const set = new PageSet();
      const expected = new Set<number>();
      for (const [isAdded, { page, pageCount }] of steps) {
        if (isAdded) set.add({ page, pageCount });
        else set.delete({ page, pageCount });
        for (let at = page; at < page + pageCount; at++) {
          if (isAdded) expected.add(at);
          else expected.delete(at);
        }
      }
      assert.equal(set.pageCount, expected.size);
      const runs = [...set.within(asked)];
      const pages = runs.flatMap(({ page, pageCount }) => Array.from({ length: pageCount }, (_, nth) => page + nth));
      const within = Array.from({ length: asked.pageCount }, (_, nth) => asked.page + nth).filter((page) => expected.has(page));
      assert.deepEqual(pages, within);
      for (const [nth, { page }] of runs.entries()) {
        const before = runs[nth - 1];
        assert.ok(before === undefined || before.page + before.pageCount < page, "two runs are one");
      }
    }),
  );
});

test("what it takes to know nothing of a large range does not depend on how large it is", () => {
  const set = new PageSet();
  set.add({ page: 7, pageCount: 1 });
  const all = { page: 0, pageCount: 2 ** 45 };
  assert.deepEqual([...set.within(all)], [{ page: 7, pageCount: 1 }]);
  set.delete(all);
  assert.deepEqual([set.pageCount, [...set.within(all)]], [0, []]);
});
