/** The list of hot pages arrives as it was; another one is refused. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { temporaryDirectory } from "../../test/support/hosts.ts";
import { readHotPages, writeHotPages } from "./hot-pages.ts";

test("what was written is read", (t) => {
  const folder = temporaryDirectory(t);
  assert.deepEqual(readHotPages(folder), new Map());
  const pages = new Map([
    [1, [{ page: 16, pageCount: 2 }]],
    [23, []],
  ]);
  writeHotPages(folder, pages);
  assert.deepEqual(readHotPages(folder), pages);
});

test("what is no such list is refused", (t) => {
  const folder = temporaryDirectory(t);
  for (const text of ["", "[]", '{"one":[]}', '{"1":[[1]]}', '{"1":[[-1,1]]}', '{"1":[[1,0]]}', '{"1":[[1e300,1]]}']) {
    writeFileSync(path.join(folder, "hot-pages.json"), text);
    assert.throws(() => readHotPages(folder), { code: "PROTOCOL" }, text);
  }
});
