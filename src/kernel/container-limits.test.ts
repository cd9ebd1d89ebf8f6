/** What limits a process, from cgroups as a container engine makes them. Needs root. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { ContainerMeter } from "./container-limits.ts";
import { groupsWith } from "./freezer-groups.ts";
import { parseMountinfo } from "./mountinfo.ts";

interface Limits {
  readonly v1: Readonly<Record<string, string>>;
  readonly v2: Readonly<Record<string, string>>;
}

/**
 * Makes a cgroup with a limit, and another one in it: in the hierarchy of the controller, which in v2 is the same for all. Returns
 * the inner one.
 */
function limitedGroup(controller: string, limits: Limits): string {
  const mounts = parseMountinfo(readFileSync("/proc/self/mountinfo", "utf8"));
  const [own] = groupsWith(controller, readFileSync("/proc/self/cgroup", "utf8"), mounts);
  assert.ok(own !== undefined);
  const outer = path.join(own.mountPoint, `limits-test-${process.pid}`);
  mkdirSync(path.join(outer, "inner"), { recursive: true });
  for (const [file, text] of Object.entries(limits[own.version])) writeFileSync(path.join(outer, file), text);
  return path.join(outer, "inner");
}

test("a container has the least of what its cgroup and those above it leave", async () => {
  const groups = new Set([
    limitedGroup("cpu", { v1: { "cpu.cfs_quota_us": "150000" }, v2: { "cpu.max": "150000 100000" } }),
    limitedGroup("memory", { v1: { "memory.limit_in_bytes": `${64 << 20}` }, v2: { "memory.max": `${64 << 20}` } }),
  ]);
  const child = spawn("sleep", ["60"], { stdio: "ignore" });
  try {
    await once(child, "spawn");
    for (const folder of groups) writeFileSync(path.join(folder, "cgroup.procs"), `${child.pid}`);
    const { limits, spaceBytes } = new ContainerMeter(child.pid ?? 0).look();
    assert.equal(limits.quotaCores, 1.5);
    assert.ok(limits.memoryLeftBytes !== undefined && limits.memoryLeftBytes > 32 << 20 && limits.memoryLeftBytes <= 64 << 20);
    assert.equal(limits.swappedBytes, 0);
    assert.equal(spaceBytes.length, 1);
    assert.ok((spaceBytes[0] ?? 0) > 0);
  } finally {
    child.kill("SIGKILL");
    await once(child, "exit");
    for (const inner of groups) for (const folder of [inner, path.dirname(inner)]) rmdirSync(folder);
  }
});

test("one that has ended has nothing, and no limits", () => {
  assert.deepEqual(new ContainerMeter(2 ** 22 + 1).look().limits, { quotaCores: undefined, memoryLeftBytes: undefined, swappedBytes: 0 });
});
