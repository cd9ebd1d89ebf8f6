/** The mappings of a process. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { parseMaps, standingMappings } from "./maps.ts";

test("those of this process are told in ascending order, with their files and the kernel's names", () => {
  const maps = parseMaps(readFileSync("/proc/self/maps", "utf8"));
  assert.ok(maps.some(({ path, inode, shared }) => path === process.execPath && inode > 0n && !shared));
  assert.ok(maps.some(({ path, writable, inode }) => path === "[stack]" && writable && inode === 0n));
  assert.ok(maps.every(({ start, end }, at) => start < end && start >= (maps[at - 1]?.end ?? 0)));
});

test("a path may hold blanks, and a file be deleted", () => {
  const [entry] = parseMaps("00400000-0040b000 r-xs 00002000 fe:00 12  /tmp/a b (deleted)\n");
  const [start, end] = [0x400000, 0x40b000];
  const access = { readable: true, writable: false, shared: true };
  assert.deepEqual(entry, { start, end, ...access, offset: 0x2000, device: "fe:00", inode: 12n, path: "/tmp/a b (deleted)" });
});

test("those of a process that stands still are read once", () => {
  const [read, other] = [standingMappings(), standingMappings()];
  assert.equal(read(process.pid), read(process.pid));
  assert.notEqual(read(process.pid), other(process.pid));
});
