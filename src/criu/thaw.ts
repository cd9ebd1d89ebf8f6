/**
 * Lets tasks run on that a dump went through and left alone. CRIU ran code of its own in them, after which the kernel can't go on with a
 * sleep or a wait with a timeout that the freeze met (restart_block, kernel/signal.c), so it has let these calls end with EINTR, as in its
 * images (see interrupted-calls.ts). Here, too, the tasks make them again.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { goOnWithCall, INTERRUPTED_CALLS } from "../kernel/interrupted-calls.ts";
import { Tracee } from "../kernel/ptrace.ts";
import { pidsIn } from "../kernel/tasks.ts";
import type { Freezer } from "./freezer.ts";

/** As long as a thread may take to stop. */
const STOP_LIMIT_MS = 1000;

/** Thaws what a dump went through. The tasks run when this returns, or throws. */
export async function thawAfterDump(freezer: Freezer): Promise<void> {
  if (process.arch !== "x64") return await freezer.thaw();
  using seized = new DisposableStack();
  const tracees: Tracee[] = [];
  try {
    for (const tid of threadsIn(freezer.folder)) {
      if (!isInCall(tid)) continue;
      const tracee = Tracee.seize(tid);
      if (tracee !== undefined) tracees.push(seized.use(tracee));
    }
  } finally {
    await freezer.thaw(); // each stops before it runs another instruction
  }
  const deadline = performance.now() + STOP_LIMIT_MS;
  for (const tracee of tracees) {
    while (!tracee.hasStopped && performance.now() < deadline) await sleep(1);
    if (tracee.hasStopped) goOnWithCall(tracee);
  }
}

function threadsIn(cgroup: string): number[] {
  return pidsIn(cgroup)
    .flatMap((pid) => (existsSync(`/proc/${pid}/task`) ? readdirSync(`/proc/${pid}/task`) : []))
    .map(Number);
}

/**
 * Whether a frozen thread may be in one of the calls (proc_pid_syscall(5)). No other is seized: one that sleeps uninterruptibly, like the
 * parent in vfork(2), would not stop, and stay traced.
 */
function isInCall(tid: number): boolean {
  const file = `/proc/${tid}/syscall`;
  const [number = ""] = existsSync(file) ? readFileSync(file, "utf8").split(" ") : [];
  return /^\d+$/.test(number) && INTERRUPTED_CALLS.has(BigInt(number));
}
