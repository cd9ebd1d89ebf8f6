/** A container's cgroups are mounted where it saw them, by either driver. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { cgroupMountOptions, cgroupOf } from "./cgroup-mounts.ts";

test("every hierarchy of v1 is mounted from the container's cgroup, once, and v2 not at all", () => {
  const mountinfo = [
    "24 1 0:20 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755",
    "25 24 0:21 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:1 - cgroup cgroup rw,cpu,cpuacct",
    "26 24 0:22 / /sys/fs/cgroup/systemd rw,relatime - cgroup systemd rw,name=systemd",
    "27 24 0:23 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw",
    "28 1 0:21 / /elsewhere rw,relatime - cgroup cgroup rw,cpu,cpuacct",
  ].join("\n");
  assert.deepEqual(cgroupMountOptions(mountinfo, "/sys/fs/cgroup", "/docker/4f"), [
    "external mnt[/sys/fs/cgroup/cpu,cpuacct]:/sys/fs/cgroup/cpu,cpuacct/docker/4f",
    "external mnt[/sys/fs/cgroup/systemd]:/sys/fs/cgroup/systemd/docker/4f",
  ]);
  assert.deepEqual(cgroupMountOptions("30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "/sys/fs/cgroup", "/docker/4f"), []);
});

test("a cgroup is named by its path, or in systemd's words", () => {
  assert.equal(cgroupOf("/docker/4f"), "/docker/4f");
  assert.equal(cgroupOf("system.slice:docker:4f"), "/system.slice/docker-4f.scope");
  assert.equal(cgroupOf("a-b.slice:docker:4f"), "/a.slice/a-b.slice/docker-4f.scope");
  assert.equal(cgroupOf("system.slice::4f"), "/system.slice/4f.scope");
});
