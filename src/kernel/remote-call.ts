/**
 * System calls that another process makes for us: its first thread is stopped, makes them, and goes on where it was, within some hundred
 * microseconds. On x86-64.
 *
 * While it is stopped, its signals wait and its seccomp filters are suspended. What it holds afterwards it holds as if it had made the
 * calls itself. If this process is killed meanwhile, the thread runs on from the middle of that; so a call must be short.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { readFileSync } from "node:fs";
import { DmigrateError } from "../core/errors.ts";
import { kernelError } from "./libc.ts";
import { parseMaps } from "./maps.ts";
import { readMemory } from "./process-memory.ts";
import { Tracee, type Registers, type RegisterName } from "./ptrace.ts";

/** How long a thread may take to stop: one that waits for a disk or a child in vfork(2) does not before that is over. */
const STOP_LIMIT_MS = 100;
/** Looked at without a pause for so long: a thread stops, and makes its call, in microseconds. */
const SPIN_MS = 2;
const SYSCALL = Buffer.of(0x0f, 0x05);
/** No system call is under way, and none is to be made again. */
const NO_CALL = -1n;
const EVERY_SIGNAL = (1n << 64n) - 1n;
const ERRNO_MAX = 4095n;
/** Where x86-64 takes a call's arguments from. */
const ARGUMENTS: readonly RegisterName[] = ["di", "si", "dx", "r10", "r8", "r9"];

/** Makes one system call in the stopped process; returns its result or throws KERNEL. */
export type RemoteCall = (name: string, number: number, ...args: readonly (number | bigint)[]) => Promise<bigint>;

/**
 * Stops a process and has it make system calls; it runs on when this returns or throws. Throws KERNEL if it has ended, can't be stopped or
 * is traced by somebody else.
 */
export async function callIn<T>(pid: number, work: (call: RemoteCall) => Promise<T>): Promise<T> {
  const instruction = syscallInstruction(pid);
  using tracee = Tracee.seize(pid, { suspendsSeccomp: true });
  if (tracee === undefined || !(await stops(tracee, STOP_LIMIT_MS)))
    throw new DmigrateError("KERNEL", `Process ${pid} can't be stopped: it has ended, is traced, or waits in the kernel; try again`);
  const registers = tracee.registers();
  const mask = tracee.signalMask();
  if (registers === undefined || mask === undefined) throw ended(pid);
  tracee.setSignalMask(EVERY_SIGNAL);
  try {
    return await work((name, number, ...args) => callOnce(tracee, registers, instruction, name, number, args));
  } finally {
    tracee.setRegisters(registers);
    tracee.setSignalMask(mask);
  }
}

async function callOnce(
  tracee: Tracee,
  original: Registers,
  instruction: bigint,
  name: string,
  number: number,
  args: readonly (number | bigint)[],
): Promise<bigint> {
  const registers = original.copy();
  registers.set("ip", instruction);
  registers.set("ax", BigInt(number));
  registers.set("orig_ax", NO_CALL);
  for (const [at, argument] of args.entries()) registers.set(ARGUMENTS[at] ?? "r9", BigInt(argument));
  tracee.setRegisters(registers);
  for (;;) {
    tracee.step();
    await stops(tracee, Infinity); // a process that was frozen meanwhile goes on some time, and must get its registers back
    const after = tracee.registers();
    if (after === undefined) throw ended(tracee.tid);
    if (after.get("ip") === instruction) continue; // something else had stopped it before it went on
    const result = after.get("ax");
    const errno = BigInt.asUintN(64, -result);
    if (errno > 0n && errno <= ERRNO_MAX) throw kernelError(name, Number(errno));
    return result;
  }
}

async function stops(tracee: Tracee, limitMs: number): Promise<boolean> {
  const beganMs = performance.now();
  while (!tracee.hasStopped) {
    const waitedMs = performance.now() - beganMs;
    if (waitedMs > limitMs) return false;
    if (waitedMs > SPIN_MS) await sleep(1);
  }
  return true;
}

/** Where in a process there is an instruction that makes a system call: its vDSO has some, for what it can't answer by itself (vdso(7)). */
function syscallInstruction(pid: number): bigint {
  const vdso = parseMaps(readFileSync(`/proc/${pid}/maps`, "utf8")).find(({ path }) => path === "[vdso]");
  if (vdso !== undefined) {
    const code = Buffer.alloc(vdso.end - vdso.start);
    const at = code.subarray(0, readMemory(pid, vdso.start, code)).indexOf(SYSCALL);
    if (at >= 0) return BigInt(vdso.start + at);
  }
  throw new DmigrateError("KERNEL", `Process ${pid} has no vDSO with a system call in it; it can't be made to make one`);
}

function ended(pid: number): DmigrateError {
  return new DmigrateError("KERNEL", `Process ${pid} has ended while it was stopped`);
}
