/**
 * The log of replies finds the longest gap.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { ReplyLog } from "./reply-log.ts";

function logOf(timesMs: readonly number[]): ReplyLog {
  const log = new ReplyLog();
  for (const timeMs of timesMs) log.add(timeMs, 1);
  return log;
}

test("the longest gap is the longest time between two replies", () => {
  assert.deepEqual(logOf([10, 12, 50, 55]).longestGap(10, 55), { startMs: 12, lengthMs: 38 });
});

test("a server that never answers again is silent until the end", () => {
  assert.deepEqual(logOf([10, 12, 20]).longestGap(10, 100), { startMs: 20, lengthMs: 80 });
  assert.deepEqual(new ReplyLog().longestGap(5, 100), { startMs: 5, lengthMs: 95 });
});

test("a gap is cut to the stretch that is asked for", () => {
  assert.deepEqual(logOf([10, 90]).longestGap(50, 200), { startMs: 90, lengthMs: 110 });
  assert.deepEqual(logOf([10, 90, 110]).longestGap(40, 100), { startMs: 40, lengthMs: 50 });
});

test("replies are counted by when they came", () => {
  const log = new ReplyLog();
  log.add(10, 3);
  log.add(20, 3);
  log.add(20, 1);
  log.add(30, 3);
  assert.equal(log.replyCount, 10);
  assert.equal(log.repliesBetween(10, 20), 4);
  assert.equal(log.repliesBetween(0, 30), 10);
  assert.equal(log.repliesBetween(31, 40), 0);
});

test("more replies than one chunk holds are all remembered", () => {
  const count = 200_000;
  const log = logOf(Array.from({ length: count }, (_, index) => index + (index >= 150_000 ? 0.5 : 0)));
  assert.equal(log.repliesBetween(-1, count), count);
  assert.deepEqual(log.longestGap(0, count - 1), { startMs: 149_999, lengthMs: 1.5 });
});

test("the gaps of adjoining stretches never exceed that of the whole, and the replies add up", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(1000), { minLength: 1 }), fc.nat(1000), (times, cut) => {
      const log = logOf(times.toSorted((a, b) => a - b));
      const whole = log.longestGap(0, 1000).lengthMs;
      assert.ok(log.longestGap(0, cut).lengthMs <= whole && log.longestGap(cut, 1000).lengthMs <= whole);
      assert.ok(log.longestGap(0, cut).lengthMs + log.longestGap(cut, 1000).lengthMs >= whole);
      assert.equal(log.repliesBetween(-1, cut) + log.repliesBetween(cut, 1000), times.length);
    }),
  );
});
