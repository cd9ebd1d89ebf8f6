/**
 * Overdue timers are mended, others and everything else are left as they are.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { DmigrateError } from "../core/errors.ts";
import { numberField } from "./image-entries.ts";
import { bytesField, imageOf } from "./image-fixture.ts";
import { mendOverdueTimers } from "./overdue-timers.ts";

interface Timer {
  readonly ticks: number;
  readonly seconds: number;
  readonly nanoseconds: number;
}

test("a timer that fired and was not read fires at once", () => {
  const image = filesImage([{ ticks: 1, seconds: 0, nanoseconds: 0 }]);
  assert.equal(mendOverdueTimers(image), 1);
  assert.deepEqual(image, filesImage([{ ticks: 1, seconds: 0, nanoseconds: 1 }]));
});

test("of any timers only the overdue ones change, and only once", () => {
  const timer = fc.record({ ticks: fc.nat(300), seconds: fc.nat(3), nanoseconds: fc.oneof(fc.constant(0), fc.nat(999_999_999)) });
  fc.assert(
    fc.property(fc.array(timer), (timers) => {
      const image = filesImage(timers);
      const overdue = timers.filter(({ ticks, seconds, nanoseconds }) => ticks > 0 && seconds === 0 && nanoseconds === 0);
      assert.equal(mendOverdueTimers(image), overdue.length);
      assert.deepEqual(image, filesImage(timers.map((each) => (overdue.includes(each) ? { ...each, nanoseconds: 1 } : each))));
      assert.equal(mendOverdueTimers(image), 0);
    }),
  );
});

test("an image that is cut short is refused, not mended by half", () => {
  const image = filesImage([{ ticks: 1, seconds: 0, nanoseconds: 0 }]);
  assert.throws(
    () => mendOverdueTimers(image.subarray(0, -1)),
    (error) => error instanceof DmigrateError && error.code === "PROTOCOL",
  );
});

/** A files.img with a regular file's entry before each timer's. */
function filesImage(timers: readonly Timer[]): Buffer {
  const regular = [...numberField(1, 1), ...numberField(2, 7), ...bytesField(3, [...numberField(1, 7), ...bytesField(6, [0x2f, 0x61])])];
  const entryOf = (timer: Timer): number[] => [...numberField(1, 17), ...numberField(2, 9), ...bytesField(12, timerEntry(timer))];
  return imageOf(
    0x56303138,
    timers.flatMap((timer) => [regular, entryOf(timer)]),
  );
}

function timerEntry({ ticks, seconds, nanoseconds }: Timer): number[] {
  const owner = bytesField(3, [...numberField(1, 0), ...numberField(2, 0)]);
  const numbers = { 1: 9, 2: 0x802, 4: 1, 5: ticks, 6: 0, 7: seconds, 8: nanoseconds, 9: 0, 10: 20_000_000 };
  return [...owner, ...Object.entries(numbers).flatMap(([field, value]) => numberField(Number(field), value))];
}
