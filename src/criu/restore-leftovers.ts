/**
 * What runc leaves of a restore if it is killed: its folder, the root of the container mounted in there for CRIU (`criu-root`,
 * libcontainer/criu_linux.go), and the container's cgroups, which it has made in every hierarchy.
 */
import { existsSync, readdirSync, rmdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import path from "node:path";
import type { ContainerId } from "../core/ids.ts";
import { removeFolder } from "../kernel/mounted-folder.ts";
import { parseMountinfo } from "../kernel/mountinfo.ts";
import { runcFoldersOf } from "./runc-folders.ts";

/** How long tasks that were killed may take to be gone. */
const END_LIMIT_MS = 5_000;
const END_POLL_MS = 20;

/**
 * Removes it, of a container that its engine does not know any more; does nothing if there is nothing. Throws EBUSY if a task stays.
 * @param cgroup the container's, from the root of every hierarchy
 */
export async function removeRestored(container: ContainerId, cgroup: string): Promise<void> {
  for (const folder of await runcFoldersOf(container)) await removeFolder(folder);
  const mounts = parseMountinfo(await readFile("/proc/self/mountinfo", "utf8"));
  const deadline = performance.now() + END_LIMIT_MS;
  for (const { path: hierarchy } of mounts.filter(({ type }) => type === "cgroup" || type === "cgroup2")) {
    await removeGroups(path.join(hierarchy, cgroup), deadline);
  }
}

/** Removes a cgroup with those below it, as soon as none has a task. */
async function removeGroups(folder: string, deadline: number): Promise<void> {
  while (existsSync(folder)) {
    try {
      removeGroupsNow(folder);
    } catch (error) {
      if (!(error instanceof Error && "code" in error && error.code === "EBUSY") || performance.now() > deadline) throw error;
      await sleep(END_POLL_MS);
    }
  }
}

function removeGroupsNow(folder: string): void {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) removeGroupsNow(path.join(folder, entry.name));
  }
  rmdirSync(folder);
}
