/**
 * Mounts: this process's own, and a line that is hard to read.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { parseMountinfo } from "./mountinfo.ts";

test("this process sees /proc", () => {
  const mounts = parseMountinfo(readFileSync("/proc/self/mountinfo", "utf8"));
  assert.ok(mounts.some(({ path, type, root }) => path === "/proc" && type === "proc" && root === "/"));
});

test("paths with blanks come through", () => {
  const [mount] = parseMountinfo("36 35 98:0 /a\\040b /mnt\\134c rw,noatime master:1 - ext4 /dev/root rw,x=y\\040z\n");
  assert.deepEqual(mount, { id: 36, device: "98:0", root: "/a b", path: "/mnt\\c", type: "ext4", options: "rw,x=y z" });
});
