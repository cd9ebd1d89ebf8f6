/**
 * The action script that keeps restored tasks frozen, as CRIU calls it.
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, rmdirSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { temporaryDirectory } from "../../test/support/hosts.ts";

const SCRIPT = fileURLToPath(new URL("dmigrate-hold", import.meta.url));

/** The first hierarchy that is there, of v1 or v2, and how /proc/PID/cgroup names it. */
const [HIERARCHY, NAME] = (
  [
    ["/sys/fs/cgroup/freezer", /^\d+:[^:]*\bfreezer\b[^:]*:/m],
    ["/sys/fs/cgroup/unified", /^0::/m],
    ["/sys/fs/cgroup", /^0::/m],
  ] as const
).find(([folder]) => existsSync(`${folder}/cgroup.procs`)) ?? ["", /^/];
const GROUP = `/dmigrate-hold-${process.pid}`;

/** A task in a cgroup of its own, and its folder as an expected container with plain files where a cgroup has its own. */
async function stage(t: TestContext, cgroup: string) {
  const folder = temporaryDirectory(t);
  mkdirSync(`${HIERARCHY}${GROUP}/below`, { recursive: true });
  const task = spawn("sh", ["-c", 'echo 0 > "$0/below/cgroup.procs"; echo; exec sleep 600', `${HIERARCHY}${GROUP}`]);
  await once(task.stdout, "data");
  t.after(async () => {
    task.kill();
    await once(task, "close");
    for (const each of ["/below", ""]) rmdirSync(`${HIERARCHY}${GROUP}${each}`);
  });
  symlinkSync(SCRIPT, path.join(folder, "hold"));
  const [control, outside] = [path.join(folder, "control"), path.join(folder, "outside")];
  for (const file of [control, outside]) writeFileSync(file, "");
  const [hierarchy = ""] = NAME.exec(readFileSync(`/proc/${task.pid}/cgroup`, "utf8")) ?? [];
  writeFileSync(path.join(folder, "fence"), [control, "FROZEN", `${hierarchy}${cgroup}`, outside, ""].join("\n"));
  const call = (action: string): number | null => {
    const env = { CRTOOLS_SCRIPT_ACTION: action, CRTOOLS_INIT_PID: String(task.pid), PATH: process.env["PATH"] };
    return spawnSync(path.join(folder, "hold"), { env }).status;
  };
  return { call, read: (name: string) => readFileSync(path.join(folder, name), "utf8"), pid: task.pid };
}

test("restored tasks are frozen before they run, and then the agent is told", async (t) => {
  const { call, read, pid } = await stage(t, `${GROUP}/below`);
  assert.deepEqual([call("pre-restore"), call("post-restore"), read("control")], [0, 0, ""]);
  assert.deepEqual([call("pre-resume"), read("control")], [0, "FROZEN\n"]);
  assert.deepEqual([call("post-resume"), read("restored")], [0, `${pid}\n`]);
});

for (const [cgroup, status] of [
  [GROUP, 0],
  [`${GROUP}/bel`, 1],
  [`${GROUP}/below/it`, 1],
  ["/elsewhere", 1],
] as const) {
  const what = status === 0 ? "a cgroup above its tasks goes on" : "another one than theirs fails before they run";
  test(`a restore that is to freeze ${what}: ${cgroup}`, async (t) => {
    assert.equal((await stage(t, cgroup)).call("post-restore"), status);
  });
}
