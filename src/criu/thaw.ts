/**
 * Lets tasks run on that a dump went through and left alone. CRIU ran code of its own in them, after which the kernel can't go on with a
 * sleep or a wait with a timeout that the freeze met (restart_block, kernel/signal.c), so it has let these calls end with EINTR, as in its
 * images (see interrupted-calls.ts). Here, too, the tasks make them again.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Tracee, type Registers } from "../kernel/ptrace.ts";
import type { Freezer } from "./freezer.ts";
import { INTERRUPTED_CALLS } from "./interrupted-calls.ts";

/** As long as a thread may take to stop. */
const STOP_LIMIT_MS = 1000;
const EINTR = BigInt.asUintN(64, -4n);
const NO_CALL = -1n;
/** Code segment of 64-bit programs. */
const USER_CS = 0x33n;

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
    const registers = tracee.hasStopped && !hasSignal(tracee.tid) ? tracee.registers() : undefined;
    if (registers !== undefined && callAgain(registers)) tracee.setRegisters(registers);
  }
}

/** Lets a thread that the freeze met in a sleep or a wait make that call again; false if it met it elsewhere. Pure. */
export function callAgain(registers: Registers): boolean {
  const number = registers.get("orig_ax");
  const call = INTERRUPTED_CALLS.get(number);
  if (call === undefined || registers.get("ax") !== EINTR || registers.get("cs") !== USER_CS) return false;
  const left = call.sleep === undefined ? 0n : registers.get(call.sleep.left);
  if (call.sleep !== undefined && left !== 0n) registers.set(call.sleep.time, left);
  registers.set("ax", number);
  registers.set("orig_ax", NO_CALL);
  registers.set("ip", registers.get("ip") - 2n);
  return true;
}

function threadsIn(cgroup: string): number[] {
  const pids = readFileSync(path.join(cgroup, "cgroup.procs"), "utf8").split("\n").filter(Boolean);
  return pids.flatMap((pid) => (existsSync(`/proc/${pid}/task`) ? readdirSync(`/proc/${pid}/task`) : [])).map(Number);
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

/** Whether a signal waits for the thread: after its handler the call must end with EINTR (proc_pid_status(5)). */
function hasSignal(tid: number): boolean {
  const file = `/proc/${tid}/status`;
  const status = existsSync(file) ? readFileSync(file, "utf8") : "";
  const mask = (name: string): bigint => BigInt(`0x${new RegExp(`^${name}:\\s*([0-9a-f]+)$`, "m").exec(status)?.[1] ?? "0"}`);
  return ((mask("SigPnd") | mask("ShdPnd")) & ~mask("SigBlk")) !== 0n;
}
