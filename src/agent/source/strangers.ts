/**
 * Processes in a container's cgroup that do not descend from its init: they came by `docker exec` or are a health probe, and
 * CRIU can't dump a container while they are there.
 */
import { readFileSync } from "node:fs";
import { pidsIn } from "../../kernel/tasks.ts";

/** Process ids, as the host counts, of those in the cgroup that are neither `initPid` nor descend from it. */
export function strangersIn(cgroup: string, initPid: number): number[] {
  const pids = pidsIn(cgroup);
  const parents = new Map<number, number>();
  for (const pid of pids) {
    const parent = parentOf(pid);
    if (parent !== undefined) parents.set(pid, parent);
  }
  return pids.filter((pid) => !descendsFrom(pid, initPid, parents));
}

/** undefined if it has ended. */
function parentOf(pid: number): number | undefined {
  try {
    return Number(/^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
  } catch {
    return undefined;
  }
}

function descendsFrom(pid: number, ancestor: number, parents: ReadonlyMap<number, number>): boolean {
  for (let at: number | undefined = pid; at !== undefined; at = parents.get(at)) if (at === ancestor) return true;
  return !parents.has(pid); // it ended meanwhile
}
