/**
 * The freezer on cgroups of its own, of the hierarchy that is there.
 */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, rmdirSync } from "node:fs";
import { test, type TestContext } from "node:test";
import { freezerAt } from "./freezer.ts";

const HIERARCHY = ["/sys/fs/cgroup/freezer", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"].find((each) => existsSync(`${each}/cgroup.procs`));

/** A cgroup with another below, and a task in each. */
async function groups(t: TestContext): Promise<{ readonly folder: string; readonly tasks: readonly ChildProcess[] }> {
  const folder = `${HIERARCHY}/dmigrate-freezer-${process.pid}`;
  const tasks: ChildProcess[] = [];
  for (const each of [folder, `${folder}/below`]) {
    mkdirSync(each);
    const task = spawn("sh", ["-c", 'echo 0 > "$0/cgroup.procs"; echo; exec sleep 600', each]);
    await once(task.stdout, "data");
    tasks.push(task);
  }
  t.after(async () => {
    for (const task of tasks) {
      task.kill("SIGKILL");
      if (task.exitCode === null && task.signalCode === null) await once(task, "exit");
    }
    for (const each of [`${folder}/below`, folder]) rmdirSync(each);
  });
  return { folder, tasks };
}

test("every task of a frozen cgroup is ended, also of those below", async (t) => {
  const { folder, tasks } = await groups(t);
  const ended = tasks.map((task) => once(task, "exit"));
  const freezer = freezerAt(folder);
  await freezer?.freeze();
  assert.equal(await freezer?.isFrozen(), true);
  await freezer?.kill();
  assert.deepEqual(await Promise.all(ended), [
    [null, "SIGKILL"],
    [null, "SIGKILL"],
  ]);
});
