/** Direct I/O of a process is seen as long as it has a file open for it. */
import assert from "node:assert/strict";
import { closeSync, constants, openSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { temporaryDirectory } from "../../test/support/hosts.ts";
import { usesDirectIo } from "./direct-io.ts";

test("a file that is open for direct I/O is seen, another one is not", (t) => {
  const file = path.join(temporaryDirectory(t), "file");
  const plain = openSync(file, constants.O_CREAT | constants.O_RDWR);
  assert.equal(usesDirectIo(process.pid), false);
  const direct = openSync(file, constants.O_RDONLY | constants.O_DIRECT);
  assert.equal(usesDirectIo(process.pid), true);
  closeSync(direct);
  assert.equal(usesDirectIo(process.pid), false);
  closeSync(plain);
});

test("a process that has ended has none to be seen", () => {
  assert.throws(() => usesDirectIo(2 ** 22 + 1), { code: "ENOENT" });
});
