/**
 * System calls that a stop interrupts, and that a thread which was stopped from outside has to make again. On x86-64.
 */
import { existsSync, readFileSync } from "node:fs";
import type { Registers, Tracee } from "./ptrace.ts";

/** Of `ax`: what CRIU, and stops themselves, end calls with; and what the kernel goes on with itself, by restart_syscall(2). */
const EINTR = BigInt.asUintN(64, -4n);
const RESTART_BLOCK = BigInt.asUintN(64, -516n);
const NO_CALL = -1n;
/** Code segment of 64-bit programs. */
const USER_CS = 0x33n;

interface Call {
  /** Which registers of a sleep point to its time, and to where the kernel wrote what was left of that; a wait has no such thing. */
  readonly sleep?: { readonly time: "di" | "dx"; readonly left: "si" | "r10" };
}

/**
 * The calls for which the kernel returns ERESTART_RESTARTBLOCK, of which CRIU makes EINTR (compel/arch/x86/src/lib/infect.c), and those
 * that every stop ends with EINTR (signal(7), "Interruption of system calls and library functions by stop signals"). By way of a signal's
 * handler `orig_ax` is no call's number any more: so if both are there nothing but the freeze has interrupted it.
 */
export const INTERRUPTED_CALLS: ReadonlyMap<bigint | undefined, Call> = new Map<bigint, Call>([
  [7n, {}], // poll
  [35n, { sleep: { time: "di", left: "si" } }], // nanosleep
  [43n, {}], // accept with a timeout (SO_RCVTIMEO), like the next two and accept4
  [45n, {}], // recvfrom
  [47n, {}], // recvmsg
  [65n, {}], // semop
  [128n, {}], // rt_sigtimedwait
  [202n, {}], // futex
  [208n, {}], // io_getevents
  [220n, {}], // semtimedop
  [230n, { sleep: { time: "dx", left: "r10" } }], // clock_nanosleep; not until a point in time, which CRIU has made again
  [232n, {}], // epoll_wait
  [281n, {}], // epoll_pwait
  [288n, {}], // accept4
  [333n, {}], // io_pgetevents
  [441n, {}], // epoll_pwait2
]);

/**
 * Lets a stopped thread that was met in a sleep or a wait make that call again: for the time that is left, as in CRIU's images (see
 * src/criu/interrupted-calls.ts). Left to itself it would go on by restart_syscall(2), of which CRIU knows nothing, or be told of a
 * signal that there never was. Nothing if it has ended.
 */
export function goOnWithCall(tracee: Tracee): void {
  const registers = hasSignal(tracee.tid) ? undefined : tracee.registers();
  if (registers !== undefined && callAgain(registers)) tracee.setRegisters(registers);
}

/** The same for its registers; false if it was met elsewhere. Pure. */
export function callAgain(registers: Registers): boolean {
  const number = registers.get("orig_ax");
  const call = INTERRUPTED_CALLS.get(number);
  const result = registers.get("ax");
  if (call === undefined || (result !== EINTR && result !== RESTART_BLOCK) || registers.get("cs") !== USER_CS) return false;
  const left = call.sleep === undefined ? 0n : registers.get(call.sleep.left);
  if (call.sleep !== undefined && left !== 0n) registers.set(call.sleep.time, left);
  registers.set("ax", number);
  registers.set("orig_ax", NO_CALL);
  registers.set("ip", registers.get("ip") - 2n);
  return true;
}

/** Whether a signal waits for the thread: after its handler the call must end with EINTR (proc_pid_status(5)). */
function hasSignal(tid: number): boolean {
  const file = `/proc/${tid}/status`;
  const status = existsSync(file) ? readFileSync(file, "utf8") : "";
  const mask = (name: string): bigint => BigInt(`0x${new RegExp(`^${name}:\\s*([0-9a-f]+)$`, "m").exec(status)?.[1] ?? "0"}`);
  return ((mask("SigPnd") | mask("ShdPnd")) & ~mask("SigBlk")) !== 0n;
}
