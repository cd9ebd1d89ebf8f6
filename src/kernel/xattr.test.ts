/** Extended attributes against the kernel. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { getXattrAt, listXattrsAt, removeXattrAt, setXattrAt } from "./xattr.ts";

test("attributes of files, directories and links are set, listed, read and removed", (t) => {
  const path = fs.mkdtempSync(join(tmpdir(), "dmigrate-xattr-"));
  const fd = fs.openSync(path, fs.constants.O_DIRECTORY);
  t.after(() => {
    fs.closeSync(fd);
    fs.rmSync(path, { recursive: true });
  });
  fs.writeFileSync(join(path, "\xff"), ""); // Node writes it as UTF-8: two bytes
  fs.symlinkSync("missing", join(path, "link"));
  const value = Buffer.from([0, 255, 10]);
  for (const name of ["\xc3\xbf", "link", "."]) {
    assert.deepEqual(listXattrsAt(fd, name), []);
    setXattrAt(fd, name, "trusted.\xfe", value);
    setXattrAt(fd, name, "trusted.empty", Buffer.alloc(0));
    assert.deepEqual(listXattrsAt(fd, name)?.toSorted(), ["trusted.empty", "trusted.\xfe"]);
    assert.deepEqual(getXattrAt(fd, name, "trusted.\xfe"), value);
    assert.deepEqual(getXattrAt(fd, name, "trusted.empty"), Buffer.alloc(0));
    assert.equal(getXattrAt(fd, name, "trusted.missing"), undefined);
    removeXattrAt(fd, name, "trusted.empty");
    removeXattrAt(fd, name, "trusted.empty");
    assert.deepEqual(listXattrsAt(fd, name), ["trusted.\xfe"]);
  }
  assert.equal(listXattrsAt(fd, "missing"), undefined);
  assert.equal(getXattrAt(fd, "missing", "trusted.a"), undefined);
});
