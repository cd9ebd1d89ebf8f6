/**
 * Overdue timers are mended, others and everything else are left as they are.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { DmigrateError } from "../core/errors.ts";
import { mendOverdueTimers } from "./overdue-timers.ts";

interface Timer {
  readonly ticks: number;
  readonly seconds: number;
  readonly nanoseconds: number;
}

test("a timer that fired and was not read fires at once", () => {
  const image = imageOf([{ ticks: 1, seconds: 0, nanoseconds: 0 }]);
  assert.equal(mendOverdueTimers(image), 1);
  assert.deepEqual(image, imageOf([{ ticks: 1, seconds: 0, nanoseconds: 1 }]));
});

test("of any timers only the overdue ones change, and only once", () => {
  const timer = fc.record({ ticks: fc.nat(300), seconds: fc.nat(3), nanoseconds: fc.oneof(fc.constant(0), fc.nat(999_999_999)) });
  fc.assert(
    fc.property(fc.array(timer), (timers) => {
      const image = imageOf(timers);
      const overdue = timers.filter(({ ticks, seconds, nanoseconds }) => ticks > 0 && seconds === 0 && nanoseconds === 0);
      assert.equal(mendOverdueTimers(image), overdue.length);
      assert.deepEqual(image, imageOf(timers.map((each) => (overdue.includes(each) ? { ...each, nanoseconds: 1 } : each))));
      assert.equal(mendOverdueTimers(image), 0);
    }),
  );
});

test("an image that is cut short is refused, not mended by half", () => {
  const image = imageOf([{ ticks: 1, seconds: 0, nanoseconds: 0 }]);
  assert.throws(
    () => mendOverdueTimers(image.subarray(0, -1)),
    (error) => error instanceof DmigrateError && error.code === "PROTOCOL",
  );
});

/** A files.img with a regular file's entry before each timer's. */
function imageOf(timers: readonly Timer[]): Buffer {
  const regular = Buffer.from([
    ...varintField(1, 1),
    ...varintField(2, 7),
    ...bytesField(3, [...varintField(1, 7), ...bytesField(6, [0x2f, 0x61])]),
  ]);
  const entries = timers.flatMap((timer) => [
    regular,
    Buffer.from([...varintField(1, 17), ...varintField(2, 9), ...bytesField(12, timerEntry(timer))]),
  ]);
  const framed = entries.flatMap((entry) => [u32(entry.length), entry]);
  return Buffer.concat([u32(0x54564319), u32(0x56303138), ...framed]);
}

function timerEntry({ ticks, seconds, nanoseconds }: Timer): number[] {
  const owner = bytesField(3, [...varintField(1, 0), ...varintField(2, 0)]);
  const numbers = { 1: 9, 2: 0x802, 4: 1, 5: ticks, 6: 0, 7: seconds, 8: nanoseconds, 9: 0, 10: 20_000_000 };
  return [...owner, ...Object.entries(numbers).flatMap(([field, value]) => varintField(Number(field), value))];
}

function varintField(number: number, value: number): number[] {
  return [...varint(number << 3), ...varint(value)];
}

function bytesField(number: number, content: readonly number[]): number[] {
  return [...varint((number << 3) | 2), ...varint(content.length), ...content];
}

function varint(value: number): number[] {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...varint(Math.floor(value / 0x80))];
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
