/**
 * System calls that another process makes for us: its threads are stopped, the first makes them, and all go on where they were, within
 * some hundred microseconds. On x86-64.
 *
 * All of them are stopped, since what the call makes is the whole process's: another thread could fork meanwhile, and the child would
 * keep it.
 *
 * While it is stopped, its signals wait and its seccomp filters are suspended. What it holds afterwards it holds as if it had made the
 * calls itself. If this process is killed meanwhile, the thread runs on from the middle of that; so a call must be short.
 */
import { existsSync, readdirSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError } from "../core/errors.ts";
import { goOnWithCall } from "./interrupted-calls.ts";
import { kernelError } from "./libc.ts";
import { mappingsOf } from "./maps.ts";
import { readMemory } from "./process-memory.ts";
import { Tracee, type Registers, type RegisterName } from "./ptrace.ts";

/** How long a thread may take to stop: one that waits for a disk or a child in vfork(2) does not before that is over. */
const STOP_LIMIT_MS = 100;
/** Looked at without a pause for so long: a thread stops, and makes its call, in microseconds. */
const SPIN_MS = 2;
/** The instruction that makes a system call. */
export const SYSCALL: Buffer = Buffer.of(0x0f, 0x05);
/** No system call is under way, and none is to be made again. */
const NO_CALL = -1n;
/** What a thread gets that can't go on where it is: SIGILL, SIGBUS, SIGSEGV. */
const FAULTS: ReadonlySet<number> = new Set([4, 7, 11]);
const EVERY_SIGNAL = (1n << 64n) - 1n;
const ERRNO_MAX = 4095n;
/** Where x86-64 takes a call's arguments from. */
const ARGUMENTS: readonly RegisterName[] = ["di", "si", "dx", "r10", "r8", "r9"];

/** A thread that is stopped and makes system calls for us. Disposing of it, or the end of this process, lets it go on where it stands. */
export class StoppedThread implements Disposable {
  readonly #tracee: Tracee;
  readonly #registers: Registers;
  readonly #signalMask: bigint;
  readonly #instruction: bigint;

  private constructor(tracee: Tracee, registers: Registers, signalMask: bigint, instruction: bigint) {
    this.#tracee = tracee;
    this.#registers = registers;
    this.#signalMask = signalMask;
    this.#instruction = instruction;
  }

  /**
   * Stops the first thread of a process. Throws KERNEL if it has ended, can't be stopped or is traced by somebody else.
   * @param limitMs how long it may take to stop
   */
  static async of(pid: number, limitMs = STOP_LIMIT_MS): Promise<StoppedThread> {
    using held = new DisposableStack();
    const tracee = await stopped(pid, limitMs);
    if (tracee === undefined) {
      throw new DmigrateError("KERNEL", `Process ${pid} can't be stopped: it has ended, is traced, or waits in the kernel; try again`);
    }
    held.use(tracee);
    const registers = tracee.registers();
    const signalMask = tracee.signalMask();
    if (registers === undefined || signalMask === undefined) throw ended(pid);
    const instruction = syscallInstruction(pid); // of the program that it has by now
    tracee.setSignalMask(EVERY_SIGNAL);
    held.move();
    return new StoppedThread(tracee, registers, signalMask, instruction);
  }

  /**
   * Makes one system call; returns its result or throws KERNEL.
   * @param name for the error
   * @param instruction the address of an instruction that makes system calls, if it is not to be one of the vDSO
   */
  async call(name: string, number: number, args: readonly (number | bigint)[], instruction = this.#instruction): Promise<bigint> {
    const registers = this.#registers.copy();
    registers.set("ip", instruction);
    registers.set("ax", BigInt(number));
    registers.set("orig_ax", NO_CALL);
    for (const [at, argument] of args.entries()) registers.set(ARGUMENTS[at] ?? "r9", BigInt(argument));
    this.#tracee.setRegisters(registers);
    for (;;) {
      this.#tracee.step();
      await stops(this.#tracee, Infinity); // one that was frozen meanwhile goes on some time, and must get its registers back
      const after = this.#tracee.registers();
      if (after === undefined) throw ended(this.#tracee.tid);
      if (after.get("ip") === instruction) {
        if (FAULTS.has(this.#tracee.stopSignal)) throw new DmigrateError("KERNEL", `Process ${this.#tracee.tid} can't make a system call`);
        continue; // something else had stopped it before it went on
      }
      const result = after.get("ax");
      const errno = BigInt.asUintN(64, -result);
      if (errno > 0n && errno <= ERRNO_MAX) throw kernelError(name, Number(errno));
      return result;
    }
  }

  /** Gives it back what it had in its registers, and its signals; then it may go on. Nothing if it has ended. */
  restore(): void {
    this.#tracee.setRegisters(this.#registers);
    this.#tracee.setSignalMask(this.#signalMask);
    goOnWithCall(this.#tracee);
  }

  [Symbol.dispose](): void {
    this.#tracee[Symbol.dispose]();
  }
}

/** Stops a process and has it make system calls; it runs on when this returns or throws. Throws KERNEL as `StoppedThread.of` does. */
export async function callIn<T>(pid: number, work: (thread: StoppedThread) => Promise<T>): Promise<T> {
  using thread = await StoppedThread.of(pid);
  try {
    using _others = await stopOthers(pid);
    return await work(thread);
  } finally {
    thread.restore();
  }
}

/** Stops all threads of a process whose first one has stopped, until this is disposed of. Throws KERNEL if one can't be stopped. */
async function stopOthers(pid: number): Promise<Disposable> {
  using held = new DisposableStack();
  const known = new Set([pid]);
  for (let isNew = true; isNew;) {
    isNew = false; // one that has not stopped may make another
    for (const tid of threadsOf(pid).filter((each) => !known.has(each))) {
      known.add(tid);
      const tracee = await stopped(tid, STOP_LIMIT_MS);
      if (tracee === undefined) {
        if (!existsSync(`/proc/${pid}/task/${tid}`)) continue;
        throw new DmigrateError("KERNEL", `Thread ${tid} of ${pid} can't be stopped: it is traced, or waits in the kernel; try again`);
      }
      held.use(tracee);
      held.defer(() => goOnWithCall(tracee));
      isNew = true;
    }
  }
  return held.move();
}

function threadsOf(pid: number): number[] {
  return readdirSync(`/proc/${pid}/task`).map(Number);
}

/** Stops a thread; undefined if it has ended, is traced, or does not stop in time. */
async function stopped(tid: number, limitMs: number): Promise<Tracee | undefined> {
  const tracee = Tracee.seize(tid, { suspendsSeccomp: true });
  if (tracee === undefined || (await stops(tracee, limitMs))) return tracee;
  void letGoOnceStopped(tracee);
  return undefined;
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

/** One that is still asked to stop can't be let go, and whoever let it alone would leave it stopped for ever. */
async function letGoOnceStopped(tracee: Tracee): Promise<void> {
  while (!tracee.hasStopped) await sleep(1, undefined, { ref: false });
  goOnWithCall(tracee);
  tracee[Symbol.dispose]();
}

/** Where in a process there is an instruction that makes a system call: its vDSO has some, for what it can't answer by itself (vdso(7)). */
function syscallInstruction(pid: number): bigint {
  const vdso = mappingsOf(pid).find(({ path }) => path === "[vdso]");
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
