/** Lazy pages that the kernel would not ask for are found, whatever the mappings are. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import type { PageRange } from "./page-ranges.ts";
import { assertRegistered, firstOutside, registeredIn } from "./registered.ts";

const SMAPS = `00400000-00410000 rw-p 00000000 00:00 0
Size:                 64 kB
VmFlags: rd wr mr mw me um
7f0000000000-7f0000001000 rw-p 00000000 00:00 0                          [stack]
VmFlags: rd wr mr mw me ac um sd
7f0000002000-7f0000003000 rw-p 00000000 00:00 0
VmFlags: rd wr mr mw me ac
7f0000004000-7f0000005000 rw-p 00000000 00:00 0
VmFlags: rd wr mr mw me nr wf dd dp
`;

test("the mappings that are registered for missing pages, or droppable, and those wiped by a fork are told from the others", () => {
  const { registered, wiped } = registeredIn(SMAPS);
  assert.deepEqual(registered, [
    { page: 0x400, pageCount: 16 },
    { page: 0x7f0000000, pageCount: 1 },
    { page: 0x7f0000004, pageCount: 1 },
  ]);
  assert.deepEqual(wiped, [{ page: 0x7f0000004, pageCount: 1 }]);
});

test("of a process like this one, which has no userfaultfd, no page would be asked for", async () => {
  const lazy = new Map([[1, [{ page: 16, pageCount: 1 }]]]);
  for (const tasks of [new Map([[1, process.pid]]), new Map<number, number>()])
    await assert.rejects(assertRegistered(lazy, tasks), { code: "RESTORE_FAILED" });
});

test("the first page outside is the first page outside", () => {
  const ranges = fc.array(fc.tuple(fc.nat(5), fc.integer({ min: 1, max: 8 })), { maxLength: 8 }).map((steps) => {
    let page = 0;
    return steps.map(([gap, pageCount]): PageRange => {
      const range = { page: page + gap, pageCount };
      page += gap + pageCount;
      return range;
    });
  });
  const pagesOf = (some: readonly PageRange[]): number[] =>
    some.flatMap(({ page, pageCount }) => Array.from({ length: pageCount }, (_, nth) => page + nth));
  fc.assert(
    fc.property(ranges, ranges, (some, others) => {
      const inside = new Set(pagesOf(others));
      assert.equal(
        firstOutside(some, others),
        pagesOf(some).find((page) => !inside.has(page)),
      );
    }),
  );
});
