/** What is predicted of each mode, and which one is taken for it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { containerId, hostName, newMigrationId } from "./ids.ts";
import { MODES, NO_PAGES, REQUESTABLE_MODES, type Report } from "./migration.ts";
import { downtimeTooLong, habitsOf, notConverging, predict, preCopyGoal, type Measured } from "./prediction.ts";

const MEGABYTE = 1e6;
/** A redis on a link of 100 MB/s that hardly writes. */
const IDLE: Measured = {
  memoryBytes: 600 * MEGABYTE,
  copyableBytes: 600 * MEGABYTE,
  frozenBytes: 0,
  writtenBytesPerSecond: MEGABYTE,
  bytesPerSecond: 100 * MEGABYTE,
  habits: { handoverMs: 200, aroundMs: 500 },
  elapsedMs: 1000,
  sentBytes: 20 * MEGABYTE,
};
/** The same, writing faster than the link carries. */
const BUSY: Measured = { ...IDLE, writtenBytesPerSecond: 270 * MEGABYTE };

test("each mode costs what its bytes take on the link, in the downtime, before it or after it", () => {
  const { modes } = predict(IDLE, "auto");
  assert.deepEqual(modes["stop-and-copy"], {
    downtimeMs: 6200,
    totalMs: 1000 + 500 + 6200,
    trafficBytes: 620 * MEGABYTE,
    missingBytes: 0,
    converges: true,
  });
  assert.deepEqual(modes["post-copy"], {
    downtimeMs: 200,
    totalMs: 1000 + 500 + 200 + 6000,
    trafficBytes: 620 * MEGABYTE,
    missingBytes: 600 * MEGABYTE,
    converges: true,
  });
  const { warm, "pre-copy": preCopy } = modes;
  assert.equal(warm.downtimeMs, 200);
  assert.ok(warm.missingBytes < MEGABYTE && warm.trafficBytes > 620 * MEGABYTE && warm.trafficBytes < 640 * MEGABYTE);
  assert.ok(preCopy.converges && preCopy.missingBytes === 0);
  assert.ok(preCopy.downtimeMs > 200 && preCopy.downtimeMs <= 200 + 400 + 300, `${preCopy.downtimeMs}`); // 400 for the store
});

test("auto copies ahead where that helps, and leaves it where everything is written again meanwhile", () => {
  assert.equal(predict(IDLE, "auto").mode, "warm");
  assert.equal(predict(BUSY, "auto").mode, "post-copy");
  assert.equal(predict({ ...IDLE, copyableBytes: 0 }, "auto").mode, "post-copy"); // on a kernel that can't track, or for a stock target
});

test("what a user asks for is taken, pre-copy also if it is not foreseen to converge", () => {
  for (const mode of MODES) assert.equal(predict(BUSY, mode).mode, mode);
  assert.equal(predict(BUSY, "pre-copy").modes["pre-copy"].converges, false);
});

test("a mode that is predicted to take longer than allowed is not taken, and the error names all", () => {
  const prediction = predict(IDLE, "stop-and-copy", 1000);
  assert.equal(prediction.mode, undefined);
  const { code, message } = downtimeTooLong("redis", prediction);
  assert.equal(code, "DOWNTIME_TOO_LONG");
  assert.match(message, /^Mode stop-and-copy is not predicted to have redis stand still for 1000 ms at most/);
  assert.match(message, /warm 200 ms, post-copy 200 ms, pre-copy \d+ ms, stop-and-copy 6200 ms/);
  assert.equal(predict(IDLE, "auto", 1000).mode, "warm");
  assert.equal(predict(IDLE, "auto", 199).mode, undefined);
  assert.match(downtimeTooLong("redis", predict(IDLE, "auto", 199)).message, /^No mode is predicted/);
  assert.equal(predict(IDLE, "pre-copy", 199).mode, undefined); // no rounds would help that
});

test("what CRIU dumps whatever the mode crosses ahead, and adds to every mode's downtime what dump and restore take", () => {
  const { modes } = predict({ ...IDLE, frozenBytes: 50 * MEGABYTE }, "auto");
  const { modes: without } = predict(IDLE, "auto");
  for (const mode of MODES) {
    assert.equal(Math.round(modes[mode].downtimeMs - without[mode].downtimeMs), 250);
    assert.equal(Math.round(modes[mode].totalMs - without[mode].totalMs), 250 + 500);
    assert.equal(modes[mode].trafficBytes - without[mode].trafficBytes, 50 * MEGABYTE);
  }
});

test("pre-copy may leave what crosses in the downtime that is allowed, less what it has anyway", () => {
  assert.equal(preCopyGoal(IDLE, 1600).leftBytes, 100 * MEGABYTE); // 1600 - 200 - 400
  assert.equal(preCopyGoal(IDLE, undefined).leftBytes, 30 * MEGABYTE);
});

test("an error of pre-copy says what was measured, what to do, and that nothing is lost", () => {
  const round = { sentBytes: 600 * MEGABYTE, ms: 6000, leftBytes: 600 * MEGABYTE };
  const { code, message } = notConverging("redis", [round, round], preCopyGoal(BUSY, undefined), BUSY);
  assert.equal(code, "NOT_CONVERGING");
  assert.match(message, /redis writes 270\.0 MB a second, the link carries 100\.0 MB a second/);
  assert.match(message, /after 2 rounds 600\.0 MB were still to cross, where 30\.0 MB may/);
  assert.match(message, /use --mode warm or post-copy.* It keeps running here, and has lost nothing$/);
});

test("whatever is measured, numbers are finite, bytes are whole, and no mode stands still for less than warm", () => {
  const bytes = fc.integer({ min: 0, max: 1e12 });
  const rate = fc.double({ min: 1, max: 1e11, noNaN: true });
  const measured: fc.Arbitrary<Measured> = fc
    .record({
      memoryBytes: bytes,
      part: fc.double({ min: 0, max: 1, noNaN: true }),
      frozenBytes: bytes,
      writtenBytesPerSecond: rate,
      bytesPerSecond: rate,
      habits: fc.constant(IDLE.habits),
      elapsedMs: fc.nat(),
      sentBytes: bytes,
    })
    .map(({ part, ...rest }) => Object.assign(rest, { copyableBytes: Math.floor(part * rest.memoryBytes) }));
  fc.assert(
    fc.property(
      measured,
      fc.constantFrom(...REQUESTABLE_MODES),
      fc.option(fc.integer({ min: 1, max: 1e6 }), { nil: undefined }),
      (...asked) => {
        const { modes, mode, maxDowntimeMs = Infinity } = predict(...asked);
        for (const each of Object.values(modes)) {
          assert.ok(Number.isFinite(each.downtimeMs) && Number.isFinite(each.totalMs) && each.totalMs >= each.downtimeMs);
          assert.ok(Number.isSafeInteger(each.trafficBytes) && Number.isSafeInteger(each.missingBytes));
          assert.ok(each.downtimeMs >= modes.warm.downtimeMs);
        }
        if (mode !== undefined && mode !== "pre-copy") assert.ok(modes[mode].downtimeMs <= maxDowntimeMs);
        if (mode === "pre-copy" && modes[mode].converges && asked[2] !== undefined) assert.ok(modes[mode].downtimeMs <= maxDowntimeMs + 1);
      },
    ),
  );
});

const REPORT: Report = {
  id: newMigrationId(1n),
  container: "redis",
  containerId: containerId("c".repeat(64)),
  source: hostName("a"),
  target: hostName("b"),
  mode: "post-copy",
  outcome: "completed",
  totalMs: 4000,
  downtimeMs: 180,
  phases: [
    { name: "stage", startMs: 0, endMs: 400 },
    { name: "post-copy", startMs: 600, endMs: 3900 },
    { name: "finish", startMs: 3900, endMs: 4000 },
  ],
  steps: [{ name: "restore", startMs: 500, endMs: 580 }],
  bytes: { memory: 1, files: 1, layers: 1, metadata: 1, total: 4, late: 0 },
  pages: NO_PAGES,
  rounds: [],
  plans: [],
  warnings: [],
};

test("how long a handover takes is what the last ones took, without what memory took in them", () => {
  assert.deepEqual(habitsOf([REPORT]), { handoverMs: 180, aroundMs: 500 });
  const whole = { ...REPORT, mode: "stop-and-copy", downtimeMs: 3180, steps: [{ name: "memory", startMs: 100, endMs: 3100 }] } as const;
  assert.deepEqual(habitsOf([whole]), { handoverMs: 180, aroundMs: 500 });
  const taking = (downtimeMs: number): Report => ({ ...REPORT, downtimeMs });
  assert.equal(habitsOf([150, 900, 160, 170, 180, 9000].map(taking)).handoverMs, 170);
  assert.equal(habitsOf([{ ...REPORT, outcome: "rolled-back", downtimeMs: 9000 }]).handoverMs, habitsOf([]).handoverMs);
});
