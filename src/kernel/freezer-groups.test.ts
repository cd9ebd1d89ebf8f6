/**
 * Which cgroup a process is frozen with, by the hierarchies that the host has.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { freezerGroups } from "./freezer-groups.ts";

const HYBRID = "9:name=systemd:/s\n6:cpu,freezer:/docker/1\n0::/user\n";
const FREEZER = { path: "/sys/fs/cgroup/freezer", type: "cgroup", options: "rw,cpu,freezer" };
const OTHER = { path: "/sys/fs/cgroup/memory", type: "cgroup", options: "rw,memory" };
const UNIFIED = { path: "/sys/fs/cgroup/unified", type: "cgroup2", options: "rw" };
const V1 = { version: "v1", hierarchy: "6:cpu,freezer", mountPoint: FREEZER.path, group: "/docker/1" };
const V2 = { version: "v2", hierarchy: "0:", mountPoint: UNIFIED.path, group: "/user" };

test("the v1 freezer comes before v2, and only what is mounted counts", () => {
  assert.deepEqual(freezerGroups(HYBRID, [UNIFIED, OTHER, FREEZER]), [V1, V2]);
  assert.deepEqual(freezerGroups(HYBRID, [UNIFIED, OTHER]), [V2]);
  assert.deepEqual(freezerGroups(HYBRID, [FREEZER]), [V1]);
  assert.deepEqual(freezerGroups(HYBRID, [OTHER]), []);
});

test("a machine with v2 alone", () => {
  const [group] = freezerGroups("0::/system.slice/docker-1.scope\n", [{ ...UNIFIED, path: "/sys/fs/cgroup" }]);
  assert.deepEqual(group, { version: "v2", hierarchy: "0:", mountPoint: "/sys/fs/cgroup", group: "/system.slice/docker-1.scope" });
});
