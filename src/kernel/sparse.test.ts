/** Holes against the kernel. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { dataExtents, punchHole } from "./sparse.ts";

const BLOCK = 64 * 1024; // a multiple of every usual file system's block

test("extents are where data was written, up to the size asked for, and not where a hole was made", (t) => {
  const path = fs.mkdtempSync(join(tmpdir(), "dmigrate-sparse-"));
  const fd = fs.openSync(join(path, "file"), "w+");
  t.after(() => {
    fs.closeSync(fd);
    fs.rmSync(path, { recursive: true });
  });
  assert.deepEqual([...dataExtents(fd, 0)], []);
  fs.ftruncateSync(fd, 1024 ** 4);
  assert.deepEqual([...dataExtents(fd, 1024 ** 4)], []);
  fs.writeSync(fd, Buffer.alloc(3 * BLOCK, 1), 0, 3 * BLOCK, 10 * BLOCK);
  fs.writeSync(fd, Buffer.alloc(BLOCK, 1), 0, BLOCK, 1024 ** 4 - BLOCK);
  const last = { start: 1024 ** 4 - BLOCK, end: 1024 ** 4 };
  assert.deepEqual([...dataExtents(fd, 1024 ** 4)], [{ start: 10 * BLOCK, end: 13 * BLOCK }, last]);
  assert.deepEqual([...dataExtents(fd, 11 * BLOCK)], [{ start: 10 * BLOCK, end: 11 * BLOCK }]);
  assert.equal(punchHole(fd, 11 * BLOCK, BLOCK), true);
  assert.deepEqual([...dataExtents(fd, 1024 ** 4)], [{ start: 10 * BLOCK, end: 11 * BLOCK }, { start: 12 * BLOCK, end: 13 * BLOCK }, last]);
});
