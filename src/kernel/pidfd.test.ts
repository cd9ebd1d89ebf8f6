/** Signals by descriptor. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { describe, it } from "node:test";
import { failedWith } from "./libc.ts";
import { ProcessHandle } from "./pidfd.ts";

void describe("a process handle", { timeout: 60_000 }, () => {
  void it("signals its process, and knows when that has ended", async () => {
    const child = spawn("sleep", ["1000"]);
    assert.ok(child.pid);
    using handle = new ProcessHandle(child.pid);
    handle.signal("SIGTERM");
    assert.deepEqual(await once(child, "exit"), [null, "SIGTERM"]);
    assert.throws(
      () => handle.signal("SIGTERM"),
      (error) => failedWith("ESRCH", error),
    );
  });

  void it("can't be had of a process that does not exist", () => {
    const pidMax = 4_194_304;
    assert.throws(
      () => new ProcessHandle(pidMax),
      (error) => failedWith("ESRCH", error),
    );
  });
});
