/**
 * Where CRIU's time went, as its log tells: the log of level 4, which runc always asks for, has a time before each line. Pure.
 *
 * A step lasts from the line that it begins with to the line that another one begins with; some come for each process, so a name may come
 * again.
 */
import type { Step } from "../core/migration.ts";

/** A step begins with each line of this kind; without a name, what follows is not told. */
type Beginning = readonly [line: RegExp, name: string | undefined];

/** Lines of a lazy dump (CRIU criu/cr-dump.c and what that calls). */
const DUMP: readonly Beginning[] = [
  [/freezing cgroup/, "seize tasks"],
  [/Seized task/, "seize tasks"],
  [/mnt: Building mountpoints tree/, "namespaces"],
  [/Collecting mappings \(pid/, "mappings"],
  [/Parasite syscall_ip/, "parasite"],
  [/Dumping opened files/, "descriptors"],
  [/Dumping pages \(type/, "pages"],
  [/Dumping core /, "threads"],
  [/mnt: Dumping mountpoints/, "files in tmpfs"],
  [/Dumping pstree/, "namespaces"],
  [/Dump NET namespace/, "network namespace"],
  [/cg: Dumping (cgroups|\d+ sets)/, "cgroups"],
  [/Running post-dump scripts/, "answer runc"],
  [/Starting lazy pages server/, undefined],
];

/** Lines of a lazy restore (CRIU criu/cr-restore.c and what that calls). */
const RESTORE: readonly Beginning[] = [
  [/cg: Preparing cgroups yard/, "cgroups"],
  [/Forking task with/, "fork tasks"],
  [/cg: Move into/, "cgroups"],
  [/Restoring namespaces/, "namespaces"],
  [/mnt: Restoring mount namespace/, "mounts"],
  [/Preparing info about shared resources/, "read images"],
  [/Opened local page read/, "pages"],
  [/Restore via sigreturn/, "restorer"],
  [/scripts/, "action scripts"],
  [/seccomp: Restoring mode/, "restorer"],
];

/** Before the first of these. */
const BEFORE = "prepare";
const LINE = /^\((\d+)\.(\d{6})\)(.*)$/;

/** The steps of a dump that serves its lazy pages, in milliseconds before it did: from a negative time on. */
export function dumpSteps(log: string): Step[] {
  return stepsOf(log, DUMP);
}

/** The steps of a restore, in milliseconds before its end. */
export function restoreSteps(log: string): Step[] {
  return stepsOf(log, RESTORE);
}

function stepsOf(log: string, beginnings: readonly Beginning[]): Step[] {
  const steps: { name: string; startMs: number; endMs: number }[] = [];
  let current: (typeof steps)[number] | undefined;
  for (const line of log.split("\n")) {
    const [, seconds, microseconds, text = ""] = LINE.exec(line) ?? [];
    if (seconds === undefined) continue; // the rest of a message
    const atMs = Number(seconds) * 1000 + Number(microseconds) / 1000;
    const [, name] = beginnings.find(([beginning]) => beginning.test(text)) ?? ["", current?.name ?? BEFORE];
    if (current !== undefined) current.endMs = atMs;
    if (name === undefined) break;
    if (name === current?.name) continue;
    current = { name, startMs: atMs, endMs: atMs };
    steps.push(current);
  }
  const endMs = current?.endMs ?? 0;
  return steps.map((step) => ({ name: step.name, startMs: step.startMs - endMs, endMs: step.endMs - endMs }));
}
