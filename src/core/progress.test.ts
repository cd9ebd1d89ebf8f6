/**
 * The rate of a migration, and the time that a phase still takes.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { RateMeter, remainingMs } from "./progress.ts";

test("the rate is that of the last second", () => {
  const meter = new RateMeter();
  assert.equal(meter.take(0, 0), 0);
  assert.equal(meter.take(500, 1000), 2000);
  assert.equal(meter.take(1000, 2000), 2000);
  for (const atMs of [1500, 2000]) meter.take(atMs, 2000);
  assert.equal(meter.take(2500, 2000), 0);
});

test("what is still to cross tells the time left, in the phases in which much crosses", () => {
  const expected = { copy: 40_000, "post-copy": 50_000 };
  const sent = { memory: 30_000, files: 1_000, layers: 4_000, metadata: 700 };
  assert.equal(remainingMs("copy", expected, sent, 1000), 5000);
  assert.equal(remainingMs("post-copy", expected, sent, 10_000), 2000);
  assert.equal(remainingMs("handover", { handover: 40_000 }, sent, 10_000), 1000); // all memory crosses in it
  assert.equal(remainingMs("handover", expected, sent, 10_000), undefined);
  for (const phase of ["preflight", "stage", "freeze", "handover", "finish"] as const)
    assert.equal(remainingMs(phase, expected, sent, 1000), undefined);
});

test("there is no estimate while nothing crosses, without an expectation, or past it", () => {
  const sent = { memory: 0, files: 0, layers: 500, metadata: 0 };
  assert.equal(remainingMs("copy", { copy: 1000 }, sent, 0), undefined);
  assert.equal(remainingMs("copy", {}, sent, 100), undefined);
  assert.equal(remainingMs("copy", { copy: 400 }, sent, 100), undefined);
});
