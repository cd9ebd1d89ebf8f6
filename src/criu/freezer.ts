/**
 * The cgroup freezer of a container: what stops its tasks, and the fence that keeps them stopped whatever CRIU does.
 *
 * cgroup v1 (freezer.state) and v2 (cgroup.freeze), by what is found: kernel Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst
 * and cgroup-v2.rst.
 */
import { existsSync, writeFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import path from "node:path";
import { DmigrateError } from "../core/errors.ts";
import { FREEZER_FILES, freezerGroups, type FreezerGroup } from "../kernel/freezer-groups.ts";
import { parseMountinfo } from "../kernel/mountinfo.ts";
import { killProcess } from "../kernel/pidfd.ts";
import { pidsIn } from "../kernel/tasks.ts";

/** How long tasks may take to stop: one in an uninterruptible sleep (a dead NFS server) never does. */
const FREEZE_LIMIT_MS = 5_000;

/** A container's freezer. */
export interface Freezer {
  /** The cgroup's folder. */
  readonly folder: string;
  /** Returns when every task is frozen; throws DUMP_FAILED if one can't be, with the others running again. */
  freeze(): Promise<void>;
  /** From here on no task runs an instruction of its own, whoever lets go of it; one that is traced may not count as frozen yet. */
  fence(): Promise<void>;
  /** Whether the tasks are frozen, or about to be. */
  isFrozen(): Promise<boolean>;
  /** Returns at once; the tasks run. Thawing what is not frozen does nothing. */
  thaw(): Promise<void>;
  /** Ends every task, also of cgroups below; none runs another instruction of its own, because the signal is there before the thaw. */
  kill(): Promise<void>;
}

/** How a cgroup is frozen whose tasks another process holds. */
export interface Fence {
  readonly version: "v1" | "v2";
  readonly control: string;
  /** What to write into `control`. */
  readonly frozen: string;
  /** The line of /proc/PID/cgroup of whoever is in the cgroup; of those below it, a beginning of theirs. */
  readonly member: string;
  /** Where a process is entered that has to leave the cgroup before: into the one of this process. */
  readonly outside: string;
}

/**
 * How a cgroup will be frozen that need not be there yet. Throws RESTORE_FAILED if there is no freezer.
 * @param cgroup from the root of its hierarchy
 */
export async function fenceOf(cgroup: string): Promise<Fence> {
  const [own] = await groupsOf("self");
  if (own === undefined)
    throw new DmigrateError("RESTORE_FAILED", "Found no cgroup freezer on the target; mount cgroup v2 or the v1 freezer hierarchy");
  const { control, frozen } = FREEZER_FILES[own.version];
  return {
    version: own.version,
    control: path.join(own.mountPoint, cgroup, control),
    frozen,
    member: `${own.hierarchy}:${cgroup}`,
    outside: path.join(own.mountPoint, own.group, "cgroup.procs"),
  };
}

/** Finds the freezer of the container whose init is `pid`. Throws DUMP_FAILED if there is none. */
export async function freezerOf(pid: number): Promise<Freezer> {
  for (const { mountPoint, group } of await groupsOf(pid)) {
    const freezer = freezerAt(path.join(mountPoint, group));
    if (freezer !== undefined) return freezer;
  }
  throw new DmigrateError("DUMP_FAILED", `Found no cgroup freezer for process ${pid}; mount cgroup v2 or the v1 freezer hierarchy`);
}

async function groupsOf(pid: number | "self"): Promise<FreezerGroup[]> {
  const mounts = parseMountinfo(await readFile("/proc/self/mountinfo", "utf8"));
  return freezerGroups(await readFile(`/proc/${pid}/cgroup`, "utf8"), mounts);
}

/** The freezer of a folder of a cgroup hierarchy, if it has one. */
export function freezerAt(folder: string): Freezer | undefined {
  for (const { control: file, frozen, thawed, state: stateFile, isFrozen } of Object.values(FREEZER_FILES)) {
    const control = path.join(folder, file);
    if (!existsSync(control)) continue;
    const state = path.join(folder, stateFile);
    const thaw = (): Promise<void> => writeFile(control, thawed);
    const fence = async (): Promise<void> => writeFileSync(control, frozen); // every millisecond counts
    return {
      folder,
      thaw,
      fence,
      isFrozen: async () => (await readFile(control, "utf8")).trim() !== thawed,
      kill: async () => {
        await fence();
        for (const pid of pidsIn(folder)) killProcess(pid);
        await thaw();
      },
      freeze: async () => {
        await fence();
        const deadline = performance.now() + FREEZE_LIMIT_MS;
        while (!isFrozen.test(await readFile(state, "utf8"))) {
          if (performance.now() > deadline) {
            await thaw();
            throw new DmigrateError(
              "DUMP_FAILED",
              `Not every task in ${folder} can be frozen; one may wait for a device or a file server. They run on`,
            );
          }
          await sleep(1);
        }
      },
    };
  }
  return undefined;
}
