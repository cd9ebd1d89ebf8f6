/**
 * A lab host's cgroups: one of the same name in every hierarchy that is mounted, so that CRIU and Docker inside the
 * host see a tree of their own.
 */
import { existsSync, readFileSync } from "node:fs";
import { mkdir, readdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import path from "node:path";
import { DmigrateError } from "../src/core/errors.ts";

/** A mounted cgroup hierarchy of this machine. */
export interface Hierarchy {
  readonly mountPoint: string;
  /** Mount options that name it (`freezer`, `cpu,cpuacct`, `none,name=systemd`), or undefined for cgroup v2. */
  readonly options: string | undefined;
}

const CONTROLLER_FLAGS = new Set(["rw", "ro", "relatime", "nosuid", "nodev", "noexec", "xattr", "nsdelegate", "memory_recursiveprot"]);

/** The hierarchies mounted on this machine. */
export function hierarchies(): Hierarchy[] {
  const found: Hierarchy[] = [];
  for (const line of readFileSync("/proc/self/mounts", "utf8").split("\n")) {
    const [, mountPoint, type, options] = line.split(" ");
    if (mountPoint === undefined || options === undefined) continue;
    if (type === "cgroup2") found.push({ mountPoint, options: undefined });
    if (type !== "cgroup") continue;
    const named = options.split(",").filter((option) => !CONTROLLER_FLAGS.has(option) && !option.startsWith("release_agent="));
    found.push({ mountPoint, options: named.some((option) => option.startsWith("name=")) ? `none,${named.join(",")}` : named.join(",") });
  }
  return found;
}

/** Those that a host has: all of this machine, or that of cgroup v2 alone. Throws LAB if it is to have one that this machine lacks. */
export function hierarchiesOf(cgroup2: boolean): Hierarchy[] {
  const all = hierarchies();
  if (!cgroup2) return all;
  const unified = all.filter(({ options }) => options === undefined);
  if (unified.length === 0) throw new DmigrateError("LAB", "This machine has no cgroup v2; mount it, or leave --cgroup2 out");
  return unified;
}

/** True for cgroup v2 alone: then a host's own processes need a leaf of their own. */
export function isUnifiedOnly(all: readonly Hierarchy[]): boolean {
  return all.every((hierarchy) => hierarchy.options === undefined);
}

/** Makes the cgroup in each of the hierarchies. Returns the folders a process of the host must be in. */
export async function makeCgroups(name: string, all: readonly Hierarchy[]): Promise<string[]> {
  const folders = all.map((hierarchy) => path.join(hierarchy.mountPoint, name));
  for (const [index, folder] of folders.entries()) {
    await mkdir(folder, { recursive: true });
    if (isUnifiedOnly(all)) await delegate(folder);
    else if (all[index]?.options?.includes("cpuset")) await inheritCpuset(folder);
  }
  return isUnifiedOnly(all) ? folders.map((folder) => path.join(folder, "init")) : folders;
}

async function delegate(folder: string): Promise<void> {
  const controllers = (await readFile(path.join(folder, "cgroup.controllers"), "utf8")).trim().split(" ").filter(Boolean);
  const enable = controllers.map((controller) => `+${controller}`).join(" ");
  await mkdir(path.join(folder, "init"), { recursive: true });
  await writeFile(path.join(folder, "cgroup.subtree_control"), enable);
}

/** A new v1 cpuset is empty, and nothing can enter it before it has processors and memory nodes. */
async function inheritCpuset(folder: string): Promise<void> {
  for (const file of ["cpuset.cpus", "cpuset.mems"]) {
    await writeFile(path.join(folder, file), await readFile(path.join(folder, "..", file), "utf8"));
  }
}

/** Thaws everything below a host's cgroups. */
export async function thawAll(name: string): Promise<void> {
  for (const { mountPoint } of hierarchies()) {
    for (const folder of await descendants(path.join(mountPoint, name))) {
      const v1 = path.join(folder, "freezer.state");
      const v2 = path.join(folder, "cgroup.freeze");
      if (existsSync(v1)) await writeFile(v1, "THAWED").catch(ignoreRoot);
      if (existsSync(v2)) await writeFile(v2, "0").catch(ignoreRoot);
    }
  }
}

/** Ids of the processes in a host's cgroups. */
export async function processesIn(name: string): Promise<number[]> {
  const pids = new Set<number>();
  for (const { mountPoint } of hierarchies()) {
    for (const folder of await descendants(path.join(mountPoint, name))) {
      const text = await readFile(path.join(folder, "cgroup.procs"), "utf8").catch(() => "");
      for (const line of text.split("\n")) if (line !== "") pids.add(Number(line));
    }
  }
  return [...pids];
}

/** Removes a host's cgroups from every hierarchy, once their processes are gone. */
export async function removeCgroups(name: string): Promise<void> {
  for (const { mountPoint } of hierarchies()) {
    for (const folder of await descendants(path.join(mountPoint, name))) await removeEmptied(folder);
  }
}

/** The kernel lets go of a cgroup only some moments after its last process was reaped. */
async function removeEmptied(folder: string): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await rmdir(folder);
    } catch (error) {
      if (!existsSync(folder)) return;
      if (attempt === 500) throw error;
      await sleep(20);
    }
  }
}

/** Names of all cgroups with a prefix at the top of any hierarchy. */
export async function cgroupsWithPrefix(prefix: string): Promise<string[]> {
  const names = new Set<string>();
  for (const { mountPoint } of hierarchies()) {
    for (const entry of await readdir(mountPoint)) if (entry.startsWith(prefix)) names.add(entry);
  }
  return [...names];
}

/** A folder and the cgroups below it, deepest first; nothing if it does not exist. */
async function descendants(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => undefined);
  if (entries === undefined) return [];
  const below: string[] = [];
  for (const entry of entries) if (entry.isDirectory()) below.push(...(await descendants(path.join(folder, entry.name))));
  return [...below, folder];
}

/** Only the root of a hierarchy refuses to be thawed, and it can't be frozen either. */
function ignoreRoot(): void {}
