/** What a share of durations was at most is told as closely as it says. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { Durations } from "./durations.ts";

test("a quantile is what a sorted list has at that place, or up to 9 % more", () => {
  const ms = fc.double({ min: 0.002, max: 1e6, noNaN: true });
  fc.assert(
    fc.property(fc.array(ms, { minLength: 1, maxLength: 200 }), fc.double({ min: 0, max: 1, noNaN: true }), (all, share) => {
      const durations = new Durations();
      for (const each of all) durations.add(each);
      const sorted = all.toSorted((a, b) => a - b);
      const exact = sorted[Math.max(1, Math.ceil(all.length * share)) - 1] ?? 0;
      const told = durations.quantileMs(share);
      assert.ok(told >= exact * 0.999_999 && told <= exact * 1.0906, `${told} instead of ${exact}`);
      assert.deepEqual([durations.count, durations.maxMs], [all.length, sorted.at(-1)]);
    }),
  );
});

test("none have no length, and those that can't be measured have next to none", () => {
  const durations = new Durations();
  assert.deepEqual([durations.count, durations.maxMs, durations.quantileMs(0.99)], [0, 0, 0]);
  durations.add(0);
  assert.deepEqual([durations.count, durations.maxMs, durations.quantileMs(0.99)], [1, 0, 0]);
});
