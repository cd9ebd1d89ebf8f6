/** A container's cgroups are mounted where it saw them, by either driver. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { cgroupMountOptions, cgroupOf } from "./cgroups.ts";

test("every hierarchy of v1 is mounted from the container's cgroup, once, and v2 not at all", () => {
  const mounts = [
    { device: "0:20", path: "/sys/fs/cgroup", type: "tmpfs" },
    { device: "0:21", path: "/sys/fs/cgroup/cpu,cpuacct", type: "cgroup" },
    { device: "0:22", path: "/sys/fs/cgroup/systemd", type: "cgroup" },
    { device: "0:23", path: "/sys/fs/cgroup/unified", type: "cgroup2" },
    { device: "0:21", path: "/elsewhere", type: "cgroup" },
  ];
  assert.deepEqual(cgroupMountOptions(mounts, "/sys/fs/cgroup", "/docker/4f"), [
    "external mnt[/sys/fs/cgroup/cpu,cpuacct]:/sys/fs/cgroup/cpu,cpuacct/docker/4f",
    "external mnt[/sys/fs/cgroup/systemd]:/sys/fs/cgroup/systemd/docker/4f",
  ]);
  assert.deepEqual(cgroupMountOptions([{ device: "0:26", path: "/sys/fs/cgroup", type: "cgroup2" }], "/sys/fs/cgroup", "/docker/4f"), []);
});

test("a cgroup is named by its path, or in systemd's words", () => {
  assert.equal(cgroupOf("/docker/4f"), "/docker/4f");
  assert.equal(cgroupOf("system.slice:docker:4f"), "/system.slice/docker-4f.scope");
  assert.equal(cgroupOf("a-b.slice:docker:4f"), "/a.slice/a-b.slice/docker-4f.scope");
  assert.equal(cgroupOf("system.slice::4f"), "/system.slice/4f.scope");
});
