/**
 * What runc leaves of a restore if it is killed: its folder, in there the container's root, mounted for CRIU (`criu-root`,
 * libcontainer/criu_linux.go), and the container's cgroups, which it has made in all hierarchies.
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
 * Removes it, of a container that does not run; does nothing if there is nothing. Throws EBUSY if a task stays.
 * @param cgroup the folder of the container's cgroup in one of the hierarchies
 */
export async function removeLeftovers(container: ContainerId, cgroup: string): Promise<void> {
  for (const folder of await runcFoldersOf(container)) await removeFolder(folder);
  const mounts = parseMountinfo(await readFile("/proc/self/mountinfo", "utf8"));
  const hierarchies = mounts.filter(({ type }) => type === "cgroup" || type === "cgroup2").map((mount) => mount.path);
  const [own = "/"] = hierarchies.filter((hierarchy) => cgroup.startsWith(`${hierarchy}/`)).toSorted((a, b) => b.length - a.length);
  const deadline = performance.now() + END_LIMIT_MS;
  for (const hierarchy of hierarchies) await removeGroups(path.join(hierarchy, path.relative(own, cgroup)), deadline);
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
