/** A guard at work: what it hands over, and its end. Needs root, and Linux 6.7. */
import assert from "node:assert/strict";
import { closeSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { temporaryDirectory } from "../../../test/support/hosts.ts";
import { newMigrationId } from "../../core/ids.ts";
import { ArenaProcess } from "../../memory/arena-process.fixture.ts";
import { parseConfig } from "../config.ts";
import { Guard } from "./guard.ts";

/** As the command `dmigrate` starts it. */
function guardOf(t: TestContext): Guard {
  const [self, command] = [process.argv[1], fileURLToPath(new URL("../../../tools/dmigrate.ts", import.meta.url))];
  t.after(() => void (process.argv[1] = self ?? ""));
  process.argv[1] = command;
  const dir = temporaryDirectory(t);
  const [stateDir, runDir, dockerSocket] = ["state", "run", "docker.sock"].map((name) => join(dir, name));
  return new Guard(parseConfig({ stateDir, runDir, dockerSocket }), newMigrationId(1n));
}

test("it hands over a userfaultfd, and leaves the process as it was", { skip: process.arch !== "x64", timeout: 60_000 }, async (t) => {
  await using task = new ArenaProcess(16, 16);
  await task.started();
  const status = (): string => readFileSync(`/proc/${task.pid}/status`, "utf8").replace(/^(?!Sig[^Q]|Shd|Seccomp|TracerPid).*\n/gm, "");
  const before = status();
  await using guard = guardOf(t);
  const fds = await Promise.all([guard.openUserfaultfd(task.pid), guard.openUserfaultfd(task.pid)]);
  for (const fd of fds) {
    assert.equal(readlinkSync(`/proc/self/fd/${fd}`), "anon_inode:[userfaultfd]");
    closeSync(fd);
  }
  assert.equal(status(), before);
  await task.tell(0, "write", 3, 7);
  assert.deepEqual(await task.read(0, 3, 1), [7]);
});

test("of a process that has ended it says so, and goes on", { skip: process.arch !== "x64", timeout: 60_000 }, async (t) => {
  await using ended = new ArenaProcess(16, 16);
  await ended.started();
  const { pid } = ended;
  await ended[Symbol.asyncDispose]();
  await using task = new ArenaProcess(16, 16);
  await task.started();
  await using guard = guardOf(t);
  await assert.rejects(guard.openUserfaultfd(pid), { code: "KERNEL" });
  closeSync(await guard.openUserfaultfd(task.pid));
});
