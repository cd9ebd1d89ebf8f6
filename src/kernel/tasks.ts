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
  return new Map(
    pidsIn(cgroup).map((pid) => {
      const ids = /^NSpid:\s+(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "";
      return [Number(ids.split(/\s+/).at(-1)), pid];
    }),
  );
}
