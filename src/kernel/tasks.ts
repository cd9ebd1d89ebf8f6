/**
 * The tasks of a container, which are what its cgroup holds.
 */
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";

/** Places of fields in proc_pid_stat(5), from 1. */
const STATE = 3;
const START_TIME = 22;

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

/** The same of one that runs: those that have ended meanwhile are left out. */
export function runningTasksIn(cgroup: string): Map<number, number> {
  const tasks = new Map<number, number>();
  for (const pid of pidsIn(cgroup)) {
    try {
      tasks.set(processIn(pid), pid);
    } catch {
      // It has ended.
    }
  }
  return tasks;
}

/** The process id inside its container. Throws ENOENT or ESRCH if it has ended. */
export function processIn(pid: number): number {
  const ids = /^NSpid:\s+(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "";
  return Number(ids.split(/\s+/).at(-1));
}

/** Process ids of those that have a thread which was stopped by a signal, or is traced (proc_pid_stat(5)): while they are not frozen. */
export function stoppedIn(cgroup: string): number[] {
  return pidsIn(cgroup).filter((pid) => threadStates(pid).some((state) => state === "T" || state === "t"));
}

function threadStates(pid: number): (string | undefined)[] {
  try {
    return readdirSync(`/proc/${pid}/task`).map((tid) => stateOf(Number(tid)));
  } catch {
    return []; // it ended meanwhile
  }
}

/**
 * What tells a process from a later one with the same id on a machine that has not been restarted: when it started, in ticks since the
 * machine did (proc_pid_stat(5)). Undefined if it has ended.
 */
export function startOf(pid: number): number | undefined {
  try {
    const fields = /\) ([^)]*)$/.exec(readFileSync(`/proc/${pid}/stat`, "utf8"))?.[1]?.split(" ");
    return fields === undefined ? undefined : Number(fields[START_TIME - STATE]);
  } catch {
    return undefined;
  }
}

/** What a thread does, as a letter (proc_pid_stat(5)); undefined if it has ended. */
export function stateOf(tid: number): string | undefined {
  try {
    return /\) (\S)[^)]*$/.exec(readFileSync(`/proc/${tid}/stat`, "utf8"))?.[1];
  } catch {
    return undefined;
  }
}

/** How much memory it has to itself; 0 if it has ended. An estimate: what it shares with a forked child counts for both. */
export function anonymousBytesOf(pid: number): number {
  try {
    return Number(/^RssAnon:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}
