/** Whether frozen tasks that the journal knows are the ones that are there. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import type { Freezer } from "../../criu/freezer.ts";
import { findTasks, noteTasks, standingTasks } from "./standing.ts";

const frozen = { isFrozen: () => Promise.resolve(true) } as Freezer; // what the function looks at
const running = { isFrozen: () => Promise.resolve(false) } as Freezer; // likewise

test("tasks are found again as long as they are there, frozen, and the same", async (t) => {
  const child = spawn("sleep", ["infinity"]);
  t.after(() => child.kill("SIGKILL"));
  const tasks = new Map([
    [1, child.pid ?? 0],
    [7, process.pid],
  ]);
  const noted = standingTasks.parse(JSON.parse(JSON.stringify(noteTasks(tasks))));
  assert.deepEqual(await findTasks(noted, frozen), tasks);
  assert.equal(await findTasks(noted, running), undefined);
  assert.equal(await findTasks(noted, undefined), undefined);
  assert.equal(await findTasks({ ...noted, bootId: "another start of the machine" }, frozen), undefined);
  const earlier = noted.tasks.map((task) => ({ ...task, startTicks: task.startTicks - 1 }));
  assert.equal(await findTasks({ ...noted, tasks: earlier }, frozen), undefined, "another process has the id of one");
  child.kill();
  await once(child, "close");
  assert.equal(await findTasks(noted, frozen), undefined);
});
