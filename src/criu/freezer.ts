/**
 * The cgroup freezer of a container: what stops its tasks, and the fence that keeps them stopped whatever CRIU does.
 *
 * cgroup v1 (freezer.state) and v2 (cgroup.freeze), by what is found: kernel Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst
 * and cgroup-v2.rst.
 */
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import path from "node:path";
import { DmigrateError } from "../core/errors.ts";
import { parseMountinfo, type Mount } from "../kernel/mountinfo.ts";

/** How long tasks may take to stop: one in an uninterruptible sleep (a dead NFS server) never does. */
const FREEZE_LIMIT_MS = 5_000;

/** A container's freezer. */
export interface Freezer {
  /** The cgroup's folder. */
  readonly folder: string;
  /** Returns when every task is frozen; throws DUMP_FAILED if one can't be, with the others running again. */
  freeze(): Promise<void>;
  /** Returns at once; the tasks run. Thawing what is not frozen does nothing. */
  thaw(): Promise<void>;
  /** Ends every frozen task; none runs another instruction of its own, because the signal is there before the thaw. */
  kill(): Promise<void>;
}

/** Finds the freezer of the container whose init is `pid`. Throws DUMP_FAILED if there is none. */
export async function freezerOf(pid: number): Promise<Freezer> {
  const cgroups = await readFile(`/proc/${pid}/cgroup`, "utf8");
  const mounts = parseMountinfo(await readFile("/proc/self/mountinfo", "utf8"));
  for (const line of cgroups.split("\n")) {
    const [, controllers, group] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers === undefined || group === undefined) continue;
    const mountPoint = mountOf(mounts, controllers);
    if (mountPoint === undefined) continue;
    const freezer = freezerAt(path.join(mountPoint, group));
    if (freezer !== undefined) return freezer;
  }
  throw new DmigrateError("DUMP_FAILED", `Found no cgroup freezer for process ${pid}; mount cgroup v2 or the v1 freezer hierarchy`);
}

/** The freezer of a folder of a cgroup hierarchy, if it has one. */
export function freezerAt(folder: string): Freezer | undefined {
  for (const { file, frozen, thawed, stateFile, isFrozen } of INTERFACES) {
    const control = path.join(folder, file);
    if (!existsSync(control)) continue;
    const state = path.join(folder, stateFile);
    const thaw = (): Promise<void> => writeFile(control, thawed);
    return {
      folder,
      thaw,
      kill: async () => {
        for (const pid of (await readFile(path.join(folder, "cgroup.procs"), "utf8")).split("\n").filter(Boolean))
          process.kill(Number(pid), "SIGKILL");
        await thaw();
      },
      freeze: async () => {
        await writeFile(control, frozen);
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

const INTERFACES = [
  { file: "freezer.state", frozen: "FROZEN", thawed: "THAWED", stateFile: "freezer.state", isFrozen: /^FROZEN/ },
  { file: "cgroup.freeze", frozen: "1", thawed: "0", stateFile: "cgroup.events", isFrozen: /^frozen 1$/m },
] as const;

/** Where the hierarchy with these controllers is mounted; no controllers means cgroup v2. */
function mountOf(mounts: readonly Mount[], controllers: string): string | undefined {
  if (controllers !== "" && !hasFreezer(controllers)) return undefined;
  return mounts.find(({ type, options }) => (controllers === "" ? type === "cgroup2" : type === "cgroup" && hasFreezer(options)))?.path;
}

function hasFreezer(list: string): boolean {
  return list.split(",").includes("freezer");
}
