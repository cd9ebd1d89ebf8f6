/**
 * The cgroups by which a process can be frozen: in the v1 hierarchy of the freezer, or in that of v2, whichever are mounted (cgroups(7)),
 * and the files that do it. Pure.
 */
import type { Mount } from "./mountinfo.ts";

/** A process's place in a hierarchy. */
export interface FreezerGroup {
  readonly version: "v1" | "v2";
  /** The hierarchy as /proc/PID/cgroup names it, like `6:freezer`; `0:` for v2. */
  readonly hierarchy: string;
  readonly mountPoint: string;
  /** From the root of the hierarchy, as the reader's cgroup namespace shows it. */
  readonly group: string;
}

/** The files of a cgroup by which it is frozen, and what is written into and read from them. */
export const FREEZER_FILES = {
  v1: { control: "freezer.state", frozen: "FROZEN", thawed: "THAWED", state: "freezer.state", isFrozen: /^FROZEN/ },
  v2: { control: "cgroup.freeze", frozen: "1", thawed: "0", state: "cgroup.events", isFrozen: /^frozen 1$/m },
} as const;

/**
 * The cgroups by which a process can be frozen. That of v1 comes before that of v2: where both are mounted, engines use v1.
 * @param cgroups /proc/PID/cgroup of the process (proc_pid_cgroup(5)): it names hierarchies that are mounted nowhere, too
 * @param mounts those of the host
 */
export function freezerGroups(cgroups: string, mounts: readonly Pick<Mount, "path" | "type" | "options">[]): FreezerGroup[] {
  return groupsWith("freezer", cgroups, mounts);
}

/** The same of any controller, like `memory`. */
export function groupsWith(
  controller: string,
  cgroups: string,
  mounts: readonly Pick<Mount, "path" | "type" | "options">[],
): FreezerGroup[] {
  const names = (list: string): boolean => list.split(",").includes(controller);
  return cgroups.split("\n").flatMap((line): FreezerGroup[] => {
    const [, hierarchy, controllers, group] = /^(\d+:([^:]*)):(.*)$/.exec(line) ?? [];
    if (hierarchy === undefined || controllers === undefined || group === undefined) return [];
    const version = controllers === "" ? "v2" : names(controllers) ? "v1" : undefined;
    const type = version === "v2" ? "cgroup2" : "cgroup";
    const mountPoint = version && mounts.find((mount) => mount.type === type && (version === "v2" || names(mount.options)))?.path;
    return version === undefined || mountPoint === undefined ? [] : [{ version, hierarchy, mountPoint, group }];
  });
}
