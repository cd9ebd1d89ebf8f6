/** The window against a path that is simulated: it fills it, whatever its rate and round trip, and its queue stays short. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { FlightWindow } from "./flight-window.ts";

interface Path {
  /** Pages a millisecond. */
  readonly rate: number;
  readonly roundTripMs: number;
  /** So many it delivers at once when it has been idle. */
  readonly burst?: number;
  /** For how long whoever answers first is slower, and by how much. */
  readonly cold?: { readonly forMs: number; readonly byMs: number };
}

const STEP_MS = 0.05;
const LIMITS = { min: 16, max: 65_536 };
/** So much is asked for at once. */
const ASKING = 4;

/** Asks for as much as may be for that long. Returns the share of the path that was used in the second half, and the longest wait there. */
function drive({ rate, roundTripMs, burst = 0, cold }: Path, forMs: number): { share: number; queueMs: number } {
  const window = new FlightWindow(LIMITS);
  /** What is under way: when it can begin to be sent, and how much of it is left. */
  const under: { readonly fromMs: number; left: number }[] = [];
  const answers: { readonly atMs: number; readonly size: number }[] = [];
  let [arrived, queueMs] = [0, 0]; // the latter: how long the first in the queue has waited
  let budget = burst;
  for (let nowMs = 0; nowMs < forMs; nowMs += STEP_MS) {
    while (answers[0] !== undefined && answers[0].atMs <= nowMs) {
      const { size } = answers.shift() ?? { size: 0 };
      window.arrive(size, nowMs);
      if (nowMs > forMs / 2) arrived += size;
    }
    while (window.limit - window.size >= ASKING) {
      window.ask(ASKING, nowMs);
      const coldMs = cold !== undefined && nowMs < cold.forMs ? cold.byMs : 0;
      under.push({ fromMs: nowMs + roundTripMs / 2 + coldMs, left: ASKING });
    }
    budget = Math.min(budget, burst + 1) + rate * STEP_MS;
    for (let first = under[0]; first !== undefined && budget >= 1 && first.fromMs <= nowMs; first = under[0]) {
      const size = Math.min(Math.floor(budget), first.left);
      first.left -= size;
      budget -= size;
      answers.push({ atMs: nowMs + roundTripMs / 2, size });
      if (first.left <= 0) under.shift();
    }
    if (nowMs > forMs / 2 && under[0] !== undefined) queueMs = Math.max(queueMs, nowMs - under[0].fromMs);
  }
  return { share: arrived / (rate * (forMs / 2)), queueMs };
}

test("a path is used, and what is asked for next waits for one round trip and a little more", () => {
  const path = fc.record({
    rate: fc.integer({ min: 20, max: 300 }),
    roundTripMs: fc.integer({ min: 4, max: 400 }).map((n) => n / 20),
    burst: fc.integer({ min: 0, max: 32 }),
    cold: fc.record({ forMs: fc.integer({ min: 0, max: 200 }), byMs: fc.integer({ min: 0, max: 10 }) }),
  });
  fc.assert(
    fc.property(path, (each) => {
      const { share, queueMs } = drive(each, 2600 + 250 * each.roundTripMs); // what is slow at first is measured anew
      assert.ok(share > 0.85, `it is used to ${share}`);
      const leastMs = (1.25 * (LIMITS.min + ASKING) + each.burst) / each.rate;
      // After the round trip was measured anew, all that may be on its way is asked for at once.
      assert.ok(queueMs < 1.25 * each.roundTripMs + 1.5 + leastMs, `the queue is ${queueMs} ms long`);
    }),
    { numRuns: 20 },
  );
});

test("on a slow path no less is on its way than may be at least", () => {
  const { share } = drive({ rate: 1, roundTripMs: 0.5 }, 2000);
  assert.ok(share > 0.9, `it is used to ${share}`);
});

test("before anything was measured there is the least, and never more than the most", () => {
  const window = new FlightWindow({ min: 16, max: 64 });
  assert.deepEqual([window.limit, window.size], [16, 0]);
  for (let nowMs = 0; nowMs < 100; nowMs++) {
    window.ask(1000, nowMs);
    window.arrive(1000, nowMs + 0.001);
  }
  assert.deepEqual([window.limit, window.size], [64, 0]);
});
