/** Rounds against a simulated link and programs that write in different ways: they end, and say rightly why. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { afterRounds, rateOf, untilItCrossesIn, WHILE_IT_HELPS, type Goal, type Round, type Verdict } from "./convergence.ts";

const MEGABYTE = 1e6;

/** How many bytes of different pages a program writes in so many milliseconds. */
type Writer = (ms: number) => number;

/** Writes new pages at that rate, of as many as there are. */
const steady =
  (bytesPerSecond: number, ofBytes: number): Writer =>
  (ms) =>
    Math.min(ofBytes, Math.floor((bytesPerSecond * ms) / 1000));

/** Writes pages at random: some of them again. */
const atRandom =
  (bytesPerSecond: number, ofBytes: number): Writer =>
  (ms) =>
    Math.floor(ofBytes * (1 - Math.exp((-bytesPerSecond * ms) / 1000 / ofBytes)));

function simulate(
  memoryBytes: number,
  bytesPerSecond: number,
  writer: Writer,
  goal: Goal,
): { readonly verdict: Verdict; readonly rounds: readonly Round[] } {
  const rounds: Round[] = [];
  for (;;) {
    const verdict = afterRounds(rounds, goal);
    if (verdict !== "another") return { verdict, rounds };
    const sentBytes = rounds.at(-1)?.leftBytes ?? memoryBytes;
    const ms = (sentBytes / bytesPerSecond) * 1000;
    rounds.push({ sentBytes, ms, leftBytes: writer(ms) });
    assert.ok(rounds.length < 100, "rounds without end");
  }
}

const GIGABIT = 110 * MEGABYTE;

test("a program that writes little converges, to whatever is wanted", () => {
  const writer = steady(20 * MEGABYTE, 600 * MEGABYTE);
  assert.deepEqual(simulate(600 * MEGABYTE, GIGABIT, writer, WHILE_IT_HELPS).verdict, "enough");
  const { verdict, rounds } = simulate(600 * MEGABYTE, GIGABIT, writer, untilItCrossesIn(10, GIGABIT));
  assert.equal(verdict, "enough");
  assert.ok((rounds.at(-1)?.leftBytes ?? Infinity) <= GIGABIT / 100);
});

test("one that writes faster than the link carries does not, and that is seen after a round, or after two by who needs to converge", () => {
  const writer = steady(270 * MEGABYTE, 600 * MEGABYTE);
  const warm = simulate(600 * MEGABYTE, GIGABIT, writer, WHILE_IT_HELPS);
  assert.deepEqual([warm.verdict, warm.rounds.length], ["no-use", 1]);
  const preCopy = simulate(600 * MEGABYTE, GIGABIT, writer, untilItCrossesIn(300, GIGABIT));
  assert.deepEqual([preCopy.verdict, preCopy.rounds.length], ["no-use", 2]);
});

test("one that writes the same few pages all the time is enough once these are little, and of no use if they are not", () => {
  const writer = steady(1000 * MEGABYTE, 20 * MEGABYTE);
  assert.equal(simulate(600 * MEGABYTE, GIGABIT, writer, untilItCrossesIn(300, GIGABIT)).verdict, "enough");
  assert.equal(simulate(600 * MEGABYTE, GIGABIT, writer, untilItCrossesIn(100, GIGABIT)).verdict, "no-use");
  assert.equal(simulate(600 * MEGABYTE, GIGABIT / 10, writer, untilItCrossesIn(300, GIGABIT / 10)).verdict, "no-use");
});

test("a burst that is over is forgiven by who has patience", () => {
  const burst: Round[] = [
    { sentBytes: 600, ms: 1, leftBytes: 500 },
    { sentBytes: 500, ms: 1, leftBytes: 100 },
  ];
  assert.equal(afterRounds(burst.slice(0, 1), { leftBytes: 10, patience: 2 }), "another");
  assert.equal(afterRounds(burst, { leftBytes: 10, patience: 2 }), "another");
  assert.equal(afterRounds(burst.slice(0, 1), { leftBytes: 10, patience: 1 }), "no-use");
});

test("what is allowed may be nothing at all: then only who writes nothing converges", () => {
  assert.equal(afterRounds([{ sentBytes: 10, ms: 1, leftBytes: 0 }], untilItCrossesIn(-50, GIGABIT)), "enough");
  assert.equal(simulate(1000, 10, steady(1, 1000), untilItCrossesIn(-50, 10)).verdict, "enough"); // in the end it had no time to write
});

test("rounds end whatever a program does, and never with enough when it is not", () => {
  const bytes = fc.integer({ min: 1, max: 1e12 });
  const writer = fc.oneof(
    fc.tuple(bytes, bytes).map(([a, b]) => steady(a, b)),
    fc.tuple(bytes, bytes).map(([a, b]) => atRandom(a, b)),
  );
  fc.assert(
    fc.property(bytes, bytes, writer, fc.integer({ min: 0, max: 10_000 }), (memory, rate, writes, ms) => {
      for (const goal of [WHILE_IT_HELPS, untilItCrossesIn(ms, rate)]) {
        const { verdict, rounds } = simulate(memory, rate, writes, goal);
        assert.equal(verdict === "enough", (rounds.at(-1)?.leftBytes ?? 0) <= goal.leftBytes);
      }
    }),
  );
});

test("the rate of a link is what rounds of some size had", () => {
  assert.equal(rateOf([{ sentBytes: 4096, ms: 20, leftBytes: 0 }]), undefined);
  assert.equal(
    rateOf([
      { sentBytes: 10_000_000, ms: 100, leftBytes: 0 },
      { sentBytes: 30_000_000, ms: 300, leftBytes: 0 },
      { sentBytes: 4096, ms: 20, leftBytes: 0 },
    ]),
    100_000_000,
  );
});
