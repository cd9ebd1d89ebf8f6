/** What waits in a pipe, against real pipes. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { unreadBytes } from "./pipes.ts";

test("what was written to a pipe and nobody has read is counted, until it is read", (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "dmigrate-pipes-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = path.join(folder, "pipe");
  execFileSync("mkfifo", [file]);
  const fd = openSync(file, constants.O_RDWR);
  t.after(() => closeSync(fd));
  assert.equal(unreadBytes(file), 0);
  writeSync(fd, "1234567");
  assert.deepEqual([unreadBytes(file), unreadBytes(`/proc/self/fd/${fd}`)], [7, 7]);
  readSync(fd, Buffer.alloc(3));
  assert.equal(unreadBytes(file), 4);
});

test("what is no pipe, or not there, holds nothing", () => {
  assert.deepEqual([unreadBytes("/dev/null"), unreadBytes("/proc/self/fd/100000")], [0, 0]);
});
