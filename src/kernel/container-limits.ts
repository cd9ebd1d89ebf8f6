/**
 * What limits a container: the processors and the memory that its cgroups leave it, v1 or v2, and what of it lies in swap space. From
 * kernel Documentation/admin-guide/cgroup-v1/memory.rst, scheduler/sched-bwc.rst and admin-guide/cgroup-v2.rst.
 */
import { readFileSync } from "node:fs";
import path from "node:path";
import type { ContainerLimits } from "../core/dump-plan.ts";
import { groupsWith } from "./freezer-groups.ts";
import { parseMountinfo } from "./mountinfo.ts";
import { anonymousBytesOf, pidsIn } from "./tasks.ts";

/** What there is to copy of a container, and what limits it. */
export interface ContainerLook {
  readonly limits: ContainerLimits;
  /** Of each of its processes, the memory that it has to itself. */
  readonly spaceBytes: readonly number[];
}

/** Looks at the container whose init is that process. A limit that can't be read is none, and so is one that has ended. */
export class ContainerMeter {
  readonly #initPid: number;
  readonly #cpuFolders: readonly string[];
  readonly #memoryFolders: readonly string[];

  constructor(initPid: number) {
    this.#initPid = initPid;
    this.#cpuFolders = foldersOf("cpu", initPid);
    this.#memoryFolders = foldersOf("memory", initPid);
  }

  look(): ContainerLook {
    const pids = this.#pids();
    return {
      limits: {
        quotaCores: least(this.#cpuFolders.map(quotaCores)),
        memoryLeftBytes: least(this.#memoryFolders.map(memoryLeftBytes)),
        swappedBytes: pids.reduce((sum, pid) => sum + swappedBytesOf(pid), 0),
      },
      spaceBytes: pids.map(anonymousBytesOf),
    };
  }

  #pids(): number[] {
    const [own] = this.#memoryFolders;
    try {
      return own === undefined ? [this.#initPid] : pidsIn(own);
    } catch {
      return []; // it has ended
    }
  }
}

/** Its cgroup and those above, each of which limits it; not the root, which limits nothing. */
function foldersOf(controller: string, pid: number): string[] {
  const group = groupsWith(controller, read(`/proc/${pid}/cgroup`), parseMountinfo(read("/proc/self/mountinfo")))[0];
  if (group === undefined) return [];
  const folders: string[] = [];
  for (let each = group.group; path.dirname(each) !== each; each = path.dirname(each)) folders.push(path.join(group.mountPoint, each));
  return folders;
}

function quotaCores(folder: string): number | undefined {
  const [quota, period] = read(path.join(folder, "cpu.max")).split(" ");
  const cores = Number(quota) / Number(period); // of v2; "max" is no number
  if (cores > 0) return cores;
  const old = Number(read(path.join(folder, "cpu.cfs_quota_us"))) / Number(read(path.join(folder, "cpu.cfs_period_us")));
  return old > 0 ? old : undefined; // of v1; -1 is none
}

function memoryLeftBytes(folder: string): number | undefined {
  const limit = read(path.join(folder, "memory.max")) || read(path.join(folder, "memory.limit_in_bytes"));
  const used = read(path.join(folder, "memory.current")) || read(path.join(folder, "memory.usage_in_bytes"));
  const left = Number.parseInt(limit, 10) - Number.parseInt(used, 10); // "max" of v2 is no number; none of v1 is a very high one
  return Number.isNaN(left) ? undefined : Math.max(0, left);
}

function swappedBytesOf(pid: number): number {
  return Number(/^VmSwap:\s+(\d+) kB$/m.exec(read(`/proc/${pid}/status`))?.[1] ?? 0) * 1024;
}

function least(numbers: readonly (number | undefined)[]): number | undefined {
  const known = numbers.filter((each) => each !== undefined);
  return known.length === 0 ? undefined : Math.min(...known);
}

/** Empty if it is not there. */
function read(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}
