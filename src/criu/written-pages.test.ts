/** The list of written pages arrives as it was; another one is refused. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { temporaryDirectory } from "../../test/support/hosts.ts";
import { readWrittenPages, writeWrittenPages } from "./written-pages.ts";

test("what was written is read", (t) => {
  const folder = temporaryDirectory(t);
  assert.deepEqual(readWrittenPages(folder), new Map());
  const ranges = [
    { page: 16, pageCount: 2 },
    { page: 2 ** 35 - 1, pageCount: 1 },
  ];
  const pages = new Map([
    [1, ranges],
    [23, []],
  ]);
  writeWrittenPages(folder, pages);
  assert.deepEqual(readWrittenPages(folder), pages);
});

test("what is no such list is refused", (t) => {
  const folder = temporaryDirectory(t);
  for (const numbers of [[1], [1, 2], [0, 1, 1], [1, -1, 1], [1, 1, -1], [1, 1.5, 1], [1, 1e300, 1], [1, NaN, 1], [1, 2 ** 45, 1]]) {
    writeFileSync(path.join(folder, "written-pages.bin"), Buffer.from(Float64Array.from(numbers).buffer));
    assert.throws(() => readWrittenPages(folder), { code: "PROTOCOL" }, String(numbers));
  }
});
