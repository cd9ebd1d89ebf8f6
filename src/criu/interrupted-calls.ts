/**
 * Lets tasks go on with the system call in which the freeze met them, where CRIU 4.2 ends it with EINTR: a program that sleeps or polls
 * would be told of a signal that there never was, and many take that for the end of their wait. `sleep` does.
 *
 * Pure. What the kernel needs to go on with such a call is not in the image, so the task makes the call again: its number goes back into
 * `ax`, and `ip` back to the instruction, which has two bytes. A sleep is for what was left of it, which the kernel wrote for its caller:
 * the register with its time points there now, and after the call no C library looks at that. If the caller did not want to know what is
 * left, and with the timeouts of poll(2) and futex(2), the wait begins anew.
 *
 * A task that was stopped in such a call before and went on (SIGSTOP, `docker pause`) is in restart_syscall(2) instead. Which call that
 * one goes on with is known to the kernel alone, so it ends with EINTR. So do the calls of 32-bit programs; images of other processors
 * than x86-64 are left as they are.
 */
import { INTERRUPTED_CALLS } from "../kernel/interrupted-calls.ts";
import { entriesOf, fieldsOf, type Field, type Span } from "./image-entries.ts";

/** Fields within fields of images/core.proto, core_entry: of its thread_info_x86, task_core_entry and thread_core_entry. */
const REGISTERS = [2, 2] as const;
const SIGNALS_OF_PROCESS = [3, 10] as const;
const SIGNALS_OF_THREAD = [5, 9] as const;

/** images/core-x86.proto, user_x86_regs_entry. */
const REGISTER = { r10: 8, ax: 11, dx: 13, si: 14, di: 15, orig_ax: 16, ip: 17, mode: 28 } as const;
const MODE_COMPAT = 2n;

const EINTR = BigInt.asUintN(64, -4n);
/** `ax` with EINTR in it, as an image has it: most images lack it, and are done with. */
const AX_IS_EINTR = Buffer.of(REGISTER.ax << 3, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01);

/** Every address of a program is below. */
const ADDRESSES_END = 1n << 56n;

/** Mends a `core-*.img` in place; returns how many calls there were to mend. Throws PROTOCOL if it is no such image. */
export function mendInterruptedCalls(coreImage: Buffer): number {
  if (!coreImage.includes(AX_IS_EINTR)) return 0;
  return [...entriesOf(coreImage)].filter((core) => mend(coreImage, core)).length;
}

function mend(image: Buffer, core: Span): boolean {
  const message = find(image, core, REGISTERS);
  if (message === undefined || hasSignals(image, core)) return false;
  const registers = new Map<number | undefined, Field>(fieldsOf(image, message.start, message.end).map((field) => [field.number, field]));
  const [ax, number, ip] = [REGISTER.ax, REGISTER.orig_ax, REGISTER.ip].map((register) => registers.get(register));
  const call = INTERRUPTED_CALLS.get(number?.value);
  if (ax?.value !== EINTR || number === undefined || ip === undefined || call === undefined) return false;
  if (registers.get(REGISTER.mode)?.value === MODE_COMPAT) return false;

  const time = call.sleep && registers.get(REGISTER[call.sleep.time]);
  const left = (call.sleep && registers.get(REGISTER[call.sleep.left])?.value) ?? 0n;
  const isLeft = time !== undefined && left > 0n && left < ADDRESSES_END;
  // The new number may be longer than the old one, and -EINTR has bytes to spare: what lies between makes room, and nothing else moves.
  const growth = isLeft ? Math.max(0, varintBytes(left) - (time.end - time.start)) : 0;
  if (isLeft) {
    image.copyWithin(ax.end - growth, ax.end, time.start);
    writeVarint(image, time.start - growth, time.end, left);
  }
  writeVarint(image, ax.start, ax.end - growth, number.value);
  writeVarint(image, ip.start, ip.end, ip.value - 2n);
  return true;
}

/** True if a signal waits for the thread, or for the process whose first one it is: after the handler the call must end with EINTR. */
function hasSignals(image: Buffer, core: Span): boolean {
  return [SIGNALS_OF_PROCESS, SIGNALS_OF_THREAD].some((path) => {
    const signals = find(image, core, path);
    return signals !== undefined && signals.start < signals.end;
  });
}

/** The field to which a path of field numbers leads from a message. */
function find(image: Buffer, message: Span, path: readonly number[]): Span | undefined {
  const inside = (span: Span, number: number): Span | undefined =>
    fieldsOf(image, span.start, span.end).find((field) => field.number === number);
  return path.reduce<Span | undefined>((span, number) => span && inside(span, number), message);
}

function varintBytes(value: bigint): number {
  return Math.ceil(value.toString(2).length / 7);
}

/** Fills the bytes with a number: one of few bits takes as many bytes as there are, too. */
function writeVarint(image: Buffer, start: number, end: number, value: bigint): void {
  for (let at = start, rest = value; at < end; at++, rest >>= 7n) image[at] = Number(rest & 0x7fn) | (at < end - 1 ? 0x80 : 0);
}
