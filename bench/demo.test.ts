/**
 * What follows from the report of a move, and from what its client noticed; and that the rows about moves are as a benchmark prints them.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { againPercent, latePercent, lostSeconds, percentIn, phaseMs } from "./demo.ts";
import { byTurns, dumpPlanRows, orderRows, postCopyRows } from "./ideas.ts";
import { MOVE } from "./move.fixture.ts";
import { demoRows } from "./page-plane/page-plane.ts";
import { jsonOf } from "./rows.ts";

test("a rate in a phase is compared with the undisturbed one", () => {
  assert.deepEqual([percentIn("copy", MOVE.repliesPerSecond), percentIn("post-copy", MOVE.repliesPerSecond)], [90, 75]);
  assert.ok(Number.isNaN(percentIn("stage", MOVE.repliesPerSecond)));
});

test("what a client could not do is told in time", () => {
  assert.ok(Math.abs(lostSeconds(MOVE) - (0.2 + 0.5 + 0.25)) < 1e-9);
  assert.equal(phaseMs(MOVE, "post-copy"), 1000);
  assert.throws(() => phaseMs(MOVE, "stage"), /there was no stage/);
});

test("each page that is written crosses once more; one that crosses without that shows", () => {
  assert.equal(againPercent(MOVE), 100);
  const wasteful = { ...MOVE, rounds: [MOVE.rounds[0] ?? assert.fail(), { pageCount: 1000, writtenCount: 20 }] };
  assert.equal(againPercent(wasteful), 850);
  assert.equal(latePercent(MOVE), 105);
});

test("rows about moves have names of their own, and values", () => {
  const moves = [MOVE, MOVE];
  const ideas = [
    ...dumpPlanRows({ planned: moves, fixed: moves }),
    ...postCopyRows({ warm: moves, "pre-copy": moves, "stop-and-copy": moves }),
    ...orderRows({ priority: moves, fifo: moves }),
  ];
  assert.ok(JSON.parse(jsonOf(ideas)).rows.length > 10);
  assert.deepEqual(
    demoRows(moves).map(({ value, met }) => [value, met]),
    [
      [190, true],
      [90, true],
      [75, true],
      [100, true],
      [105, true],
    ],
  );
  assert.doesNotThrow(() => jsonOf(demoRows(moves)));
});

test("what is compared is measured by turns", async () => {
  const asked: (string | undefined)[] = [];
  const moves = await byTurns(
    { on: {}, off: { order: "fifo" } },
    () => {},
    async ({ order }) => {
      asked.push(order);
      return [MOVE];
    },
  );
  assert.deepEqual(asked, [undefined, "fifo", undefined, "fifo", undefined, "fifo"]);
  assert.deepEqual(moves, { on: [MOVE, MOVE, MOVE], off: [MOVE, MOVE, MOVE] });
});
