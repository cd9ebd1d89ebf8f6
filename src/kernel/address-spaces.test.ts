/** Who shares an address space with whom. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { shareMemory } from "./address-spaces.ts";

test("threads of a process share memory, processes do not", { skip: process.arch !== "x64" }, () => {
  const tids = readdirSync("/proc/self/task").map(Number);
  assert.ok(tids.length > 1);
  for (const tid of tids) assert.equal(shareMemory(process.pid, tid), true);
  assert.equal(shareMemory(process.pid, process.ppid), false);
  assert.equal(shareMemory(process.pid, 2 ** 22), false);
});
