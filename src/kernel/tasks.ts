/**
 * The tasks of a container, which are what its cgroup holds.
 */
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";

/** Process ids as this host counts, also of those in cgroups below. */
export function pidsIn(cgroup: string): number[] {
  const own = readFileSync(path.join(cgroup, "cgroup.procs"), "utf8").split("\n").filter(Boolean).map(Number);
  const below = readdirSync(cgroup, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  return [...own, ...below.flatMap(({ name }) => pidsIn(path.join(cgroup, name)))];
}

/** Process ids as this host counts, by those inside the container. Of a frozen one: no task ends meanwhile. */
export function tasksIn(cgroup: string): Map<number, number> {
  return new Map(pidsIn(cgroup).map((pid) => [processIn(pid), pid]));
}

/** The process id inside its container. Throws ENOENT or ESRCH if it has ended. */
export function processIn(pid: number): number {
  const ids = /^NSpid:\s+(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "";
  return Number(ids.split(/\s+/).at(-1));
}

/** How much memory it has to itself; 0 if it has ended. An estimate: what it shares with a forked child counts for both. */
export function anonymousBytesOf(pid: number): number {
  try {
    return Number(/^RssAnon:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}
