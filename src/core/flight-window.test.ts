/** The window against a path that is simulated: it fills it, whatever its rate and round trip, and its queue stays short. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { FlightWindow } from "./flight-window.ts";

interface Path {
  /** Pages a millisecond. */
  readonly rate: number;
  readonly roundTripMs: number;
}

const STEP_MS = 0.05;
/** So much is asked for at once. */
const ASKING = 4;

/** Asks for as much as may be for that long. Returns the share of the path that was used in the second half, and the longest wait there. */
function drive({ rate, roundTripMs }: Path, forMs: number, limits = { min: 16, max: 65_536 }): { share: number; queueMs: number } {
  const window = new FlightWindow(limits);
  /** What is under way: when it can begin to be sent, and how much of it is left. */
  const under: { readonly fromMs: number; left: number }[] = [];
  const answers: { readonly atMs: number; readonly size: number }[] = [];
  let [arrived, queueMs] = [0, 0]; // the latter: how long the first in the queue has waited
  for (let nowMs = 0; nowMs < forMs; nowMs += STEP_MS) {
    while (answers[0] !== undefined && answers[0].atMs <= nowMs) {
      const { size } = answers.shift() ?? { size: 0 };
      window.arrive(size, nowMs);
      if (nowMs > forMs / 2) arrived += size;
    }
    while (window.limit - window.size >= ASKING) {
      window.ask(ASKING, nowMs);
      under.push({ fromMs: nowMs + roundTripMs / 2, left: ASKING });
    }
    let budget = rate * STEP_MS;
    for (let first = under[0]; first !== undefined && budget > 0 && first.fromMs <= nowMs; first = under[0]) {
      const size = Math.min(budget, first.left);
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
  const path = fc.record({ rate: fc.integer({ min: 20, max: 300 }), roundTripMs: fc.integer({ min: 4, max: 400 }).map((n) => n / 20) });
  fc.assert(
    fc.property(path, (each) => {
      const { share, queueMs } = drive(each, 200 + 80 * each.roundTripMs); // a long path takes long to fill
      assert.ok(share > 0.85, `it is used to ${share}`);
      assert.ok(queueMs < each.roundTripMs / 2 + 2, `the queue is ${queueMs} ms long`);
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
