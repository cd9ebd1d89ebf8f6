/** Another process gets descriptors of this one, and goes on. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, fstatSync, statSync } from "node:fs";
import { test } from "node:test";
import { giveDescriptors } from "./give-descriptors.ts";
import { makeMemoryFile } from "./memory-file.ts";
import { killProcess } from "./pidfd.ts";

test("a process that waits has the same files afterwards", { skip: process.arch !== "x64", timeout: 30_000 }, async () => {
  const pid = Number(execFileSync("sh", ["-c", "sleep 600 <&- >&- 2>&- & echo $!"], { encoding: "utf8" }));
  const files = ["one", "another"].map(makeMemoryFile);
  try {
    const given = await giveDescriptors(pid, files);
    assert.deepEqual(
      given.map((fd) => statSync(`/proc/${pid}/fd/${fd}`).ino),
      files.map((fd) => fstatSync(fd).ino),
    );
    assert.ok(statSync(`/proc/${pid}`).isDirectory());
  } finally {
    killProcess(pid);
    files.forEach((fd) => closeSync(fd));
  }
});
