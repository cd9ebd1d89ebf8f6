/**
 * Calls that CRIU interrupted are made again, others and everything else are left as they are.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import * as fc from "fast-check";
import { DmigrateError } from "../core/errors.ts";
import { entriesOf, fieldsOf, type Span, numberField } from "./image-entries.ts";
import { bytesField, imageOf } from "./image-fixture.ts";
import { mendInterruptedCalls } from "./interrupted-calls.ts";

/** What matters of a thread. */
interface Thread {
  readonly ax: bigint;
  readonly orig_ax: bigint;
  readonly ip: bigint;
  readonly di: bigint;
  readonly si: bigint;
  readonly dx: bigint;
  readonly r10: bigint;
  readonly mode?: bigint | undefined;
  /** Signals that wait for its process, and for itself. */
  readonly signals?: { readonly process: number; readonly thread: number };
}

const EINTR = BigInt.asUintN(64, -4n);
const [POLL, NANOSLEEP, FUTEX, CLOCK_NANOSLEEP, RESTART_SYSCALL] = [7n, 35n, 202n, 230n, 219n];
const interrupted: Thread = { ax: EINTR, orig_ax: POLL, ip: 0x401002n, di: 0x7ffc_0000_1000n, si: 2n, dx: 60_000n, r10: 3n, mode: 1n };

/** The registers of the thread once it was mended; undefined if there was nothing to mend. */
function mended(thread: Thread): Registers | undefined {
  const image = coreImage(thread);
  return mendInterruptedCalls(image) === 0 ? undefined : registersIn(image);
}

describe("a call that was interrupted is made again", () => {
  const calls = { poll: POLL, futex: FUTEX, nanosleep: NANOSLEEP, clock_nanosleep: CLOCK_NANOSLEEP, epoll_wait: 232n, recvfrom: 45n };
  for (const [name, orig_ax] of Object.entries(calls))
    test(name, () => {
      const thread = { ...interrupted, orig_ax, si: 0n, r10: 0n };
      assert.deepEqual(mended(thread), registersOf({ ...thread, ax: orig_ax, ip: 0x401000n }));
    });
});

describe("a sleep is for the time that was left", () => {
  const addresses = { "on the stack": 0x7ffc_0000_2000n, "in a static program": 0x4c_0000n };
  for (const [name, left] of Object.entries(addresses))
    for (const [timeName, time] of Object.entries(addresses))
      test(`which is ${name}, its time ${timeName}`, () => {
        const nanosleep = { ...interrupted, orig_ax: NANOSLEEP, di: time, si: left };
        assert.deepEqual(mended(nanosleep), registersOf({ ...nanosleep, ax: NANOSLEEP, ip: 0x401000n, di: left }));
        const clock = { ...interrupted, orig_ax: CLOCK_NANOSLEEP, di: 1n, si: 0n, dx: time, r10: left };
        assert.deepEqual(mended(clock), registersOf({ ...clock, ax: CLOCK_NANOSLEEP, ip: 0x401000n, dx: left }));
      });
});

describe("a call ends as CRIU has it", () => {
  const others: Record<string, Partial<Thread>> = {
    "that returned something else": { ax: 0n },
    "of another kind": { orig_ax: 0n },
    "that the kernel had begun again": { orig_ax: RESTART_SYSCALL },
    "that a signal's handler interrupted": { orig_ax: BigInt.asUintN(64, -1n) },
    "of a 32-bit program": { mode: 2n },
    "when a signal waits for the process": { signals: { process: 1, thread: 0 } },
    "when a signal waits for the thread": { signals: { process: 0, thread: 1 } },
  };
  for (const [name, change] of Object.entries(others)) test(name, () => assert.equal(mended({ ...interrupted, ...change }), undefined));
});

test("an image without registers is left alone: a process that has ended, another processor", () => {
  const image = imageOf(CORE_MAGIC, [[...numberField(1, 3), ...bytesField(8, numberField(11, EINTR))]]);
  assert.equal(mendInterruptedCalls(image), 0);
});

test("whatever the registers are, nothing but what the call needs changes, and only once", () => {
  const bits = fc.oneof(
    fc.constant(0n),
    fc.integer({ min: 1, max: 56 }).chain((size) => fc.bigInt({ min: 0n, max: (1n << BigInt(size)) - 1n })),
  );
  const thread = fc.record({
    ax: fc.oneof({ weight: 3, arbitrary: fc.constant(EINTR) }, fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })),
    orig_ax: fc.constantFrom(POLL, NANOSLEEP, FUTEX, CLOCK_NANOSLEEP, RESTART_SYSCALL),
    ip: bits.map((ip) => ip + 2n),
    di: bits,
    si: bits,
    dx: bits,
    r10: bits,
    mode: fc.constantFrom(undefined, 1n),
  });
  fc.assert(
    fc.property(thread, (before) => {
      const image = coreImage(before);
      const after = mendInterruptedCalls(image) === 0 ? before : again(before);
      assert.equal(after === before, before.ax !== EINTR || before.orig_ax === RESTART_SYSCALL);
      assert.deepEqual(registersIn(image), registersOf(after));
      assert.deepEqual(around(image), around(coreImage(before)));
      assert.equal(mendInterruptedCalls(image), 0);
    }),
  );
});

test("an image that is cut short is refused, not mended by half", () => {
  assert.throws(
    () => mendInterruptedCalls(coreImage(interrupted).subarray(0, -1)),
    (error) => error instanceof DmigrateError && error.code === "PROTOCOL",
  );
});

/** The thread about to make its call again. */
function again(thread: Thread): Thread {
  const { orig_ax, ip, di, si, dx, r10 } = thread;
  const made = { ...thread, ax: orig_ax, ip: ip - 2n };
  if (orig_ax === NANOSLEEP) return { ...made, di: si === 0n ? di : si };
  if (orig_ax === CLOCK_NANOSLEEP) return { ...made, dx: r10 === 0n ? dx : r10 };
  return made;
}

const CORE_MAGIC = 0x55053847;

/** Of each register its field number and content, in the order of the image. */
type Registers = readonly (readonly [number: number, value: bigint])[];

function registersOf({ r10, ax, dx, si, di, orig_ax, ip, mode }: Thread): Registers {
  const all: readonly bigint[] = [15n, 14n, 13n, 12n, 1n << 63n, 11n, 0x246n, r10, 9n, 8n, ax, 7n, dx, si, di, orig_ax, ip];
  const segments = [0x33n, 0x246n, 0x7ffc_0000_0000n, 0x2bn, 0x7f00_0000_0740n, 0n, 0n, 0n, 0n, 0n];
  return [...all, ...segments, ...(mode === undefined ? [] : [mode])].map((value, index) => [index + 1, value]);
}

function coreImage(thread: Thread): Buffer {
  const { process, thread: own } = { process: 0, thread: 0, ...thread.signals };
  const queue = (count: number): number[] =>
    Array<number[]>(count)
      .fill(bytesField(1, bytesField(1, [10, 0, 0, 0])))
      .flat();
  const registers = registersOf(thread).flatMap(([number, value]) => numberField(number, value));
  const info = [...numberField(1, 0x7f00_0000_0a10n), ...bytesField(2, registers), ...bytesField(3, numberField(1, 0x37f))];
  const task = [...numberField(1, 1), ...bytesField(6, [0x73, 0x68]), ...bytesField(10, queue(process))];
  const core = [...numberField(6, 0), ...bytesField(9, queue(own))];
  return imageOf(CORE_MAGIC, [[...numberField(1, 1), ...bytesField(2, info), ...bytesField(3, task), ...bytesField(5, core)]]);
}

function registersSpan(image: Buffer): Span {
  const [core = { start: 0, end: 0 }] = entriesOf(image);
  const inside = (span: Span): Span => fieldsOf(image, span.start, span.end).find(({ number }) => number === 2) ?? span;
  return inside(inside(core));
}

function registersIn(image: Buffer): Registers {
  const { start, end } = registersSpan(image);
  return fieldsOf(image, start, end)
    .map(({ number, value }) => [number, value] as const)
    .toArray();
}

/** The bytes before the registers, and those after them. */
function around(image: Buffer): Buffer[] {
  const { start, end } = registersSpan(image);
  return [image.subarray(0, start), image.subarray(end)];
}
