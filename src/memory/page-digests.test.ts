/** What a source takes as digests of all pages, and what not. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { GivenPages, PageComparison, type DigestedRun } from "./page-digests.ts";
import { PAGE_BYTES } from "./page-protocol.ts";

const LAZY = new Map([
  [
    1,
    [
      { page: 10, pageCount: 1500 },
      { page: 9000, pageCount: 2 },
    ],
  ],
  [7, [{ page: 10, pageCount: 3 }]],
]);
const TOTAL = 1505;

const pageOf = (process: number, page: number): Buffer => Buffer.alloc(PAGE_BYTES, `process ${process} page ${page} `);

/** Those of a page of the second process. */
const AREAS = new Map([[7, [{ start: 12 * PAGE_BYTES + 0x40, end: 12 * PAGE_BYTES + 0x60 }]]]);

function comparison(): PageComparison {
  return new PageComparison(LAZY, AREAS, ({ process, page, pageCount }, into) => {
    for (let nth = 0; nth < pageCount; nth++) pageOf(process, page + nth).copy(into, nth * PAGE_BYTES);
  });
}

/** As they are given to tasks that want all of them. */
function allGiven(): GivenPages {
  const given = new GivenPages(LAZY, AREAS);
  for (const [process, ranges] of LAZY) {
    const pages = ranges.flatMap(({ page, pageCount }) => Array.from({ length: pageCount }, (_, nth) => pageOf(process, page + nth)));
    given.note(process, 0, pages.length, Buffer.concat(pages));
  }
  return given;
}

void describe("digests of all pages", () => {
  void it("show what is the same, what was given in two ways, and what was not given", () => {
    const given = allGiven();
    given.note(1, 3, 1, pageOf(1, 13));
    given.note(7, 1, 1, pageOf(7, 12));
    const found = comparison();
    for (const run of given.runs()) found.take(run);
    assert.deepEqual(found.end(), { same: TOTAL - 1, different: 1, released: 0 });
    assert.deepEqual(found.different, [{ process: 7, page: 11, pageCount: 1 }]);

    const none = comparison();
    for (const run of new GivenPages(LAZY, AREAS).runs()) none.take(run);
    assert.deepEqual(none.end(), { same: 0, different: 0, released: TOTAL });
  });

  void it("leave out what the kernel writes, and nothing else", () => {
    const found = [0x3f, 0x40, 0x5f, 0x60].map((at) => {
      const page = pageOf(7, 12);
      page.writeUInt8(255, at);
      const given = new GivenPages(LAZY, AREAS);
      given.note(7, 2, 1, page);
      const compared = comparison();
      for (const run of given.runs()) compared.take(run);
      return compared.end().different;
    });
    assert.deepEqual(found, [1, 0, 0, 1]);
  });

  const [first, ...rest] = [...allGiven().runs()];
  assert.ok(first !== undefined && rest.length > 0);
  const refused: Readonly<Record<string, readonly DigestedRun[]>> = {
    "some are missing at the end": [first],
    "some are missing in between": rest,
    "they come twice": [first, first],
    "they are of another process": [{ ...first, process: 2 }],
    "they are of other pages": [{ ...first, page: 11 }],
    "they reach beyond their range": [first, { process: 1, page: first.page + 1024, digests: Buffer.alloc(8 * 1000) }],
    "there are too many at once": [{ ...first, digests: Buffer.alloc(8 * 1025) }],
    "there are none": [{ ...first, digests: Buffer.alloc(0) }],
    "one is cut": [{ ...first, digests: first.digests.subarray(0, 12) }],
  };
  for (const [what, runs] of Object.entries(refused))
    void it(`are refused if ${what}`, () => {
      const take = (): void => {
        const found = comparison();
        for (const run of runs) found.take(run);
        found.end();
      };
      assert.throws(take, { code: "PROTOCOL" });
    });
});
