/**
 * Processes in a container's cgroup that do not descend from its init: they came by `docker exec` or are a health probe, and
 * CRIU can't dump a container while they are there.
 */
import { readFile } from "node:fs/promises";
import { pidsIn } from "../../kernel/tasks.ts";

/** Process ids, as the host counts, of those in the cgroup that are neither `initPid` nor descend from it. */
export async function strangersIn(cgroup: string, initPid: number): Promise<number[]> {
  const pids = pidsIn(cgroup);
  const parents = new Map<number, number>();
  for (const pid of pids) {
    const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
    const parent = /^PPid:\s+(\d+)$/m.exec(status)?.[1];
    if (parent !== undefined) parents.set(pid, Number(parent));
  }
  return pids.filter((pid) => !descendsFrom(pid, initPid, parents));
}

function descendsFrom(pid: number, ancestor: number, parents: ReadonlyMap<number, number>): boolean {
  for (let at: number | undefined = pid; at !== undefined; at = parents.get(at)) if (at === ancestor) return true;
  return !parents.has(pid); // it ended meanwhile
}
