/** An allowance of processor time: whoever waits as told keeps to it, and gets on. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { CpuAllowance } from "./cpu-allowance.ts";

const cores = fc.double({ min: 0.01, max: 8, noNaN: true });

test("whoever waits as told uses no more than allowed, but for one piece of work and what was saved", () => {
  const works = fc.array(fc.record({ usedMs: fc.double({ min: 0, max: 40, noNaN: true }), idleMs: fc.nat(50) }));
  fc.assert(
    fc.property(cores, works, (allowed, all) => {
      const allowance = new CpuAllowance(0, 0);
      let [atMs, usedMs] = [0, 0];
      for (const work of all) {
        atMs += work.usedMs / allowed + work.idleMs; // it can't use more than all processors
        usedMs += work.usedMs;
        atMs += allowance.waitMs(atMs, usedMs, allowed);
        assert.ok(usedMs <= atMs * allowed + 20 + 1e-6, `${usedMs} ms in ${atMs}`);
      }
    }),
  );
  fc.assert(
    fc.property(cores, fc.double({ min: 0, max: 40, noNaN: true }), (allowed, pieceMs) => {
      const allowance = new CpuAllowance(0, 0);
      let atMs = 0;
      let usedMs = 0;
      for (let piece = 0; piece < 100; piece++) {
        usedMs += pieceMs; // done at once, by many threads
        atMs += allowance.waitMs(atMs, usedMs, allowed);
      }
      assert.ok(usedMs <= atMs * allowed + 20 + pieceMs + 1e-6, `${usedMs} ms in ${atMs}`);
    }),
  );
});

test("who uses little never waits, however long", () => {
  const allowance = new CpuAllowance(0, 0);
  for (let atMs = 10; atMs < 10_000; atMs += 10) assert.equal(allowance.waitMs(atMs, atMs * 0.19, 0.2), 0);
});

test("what others of the process use holds it up for a while, not for ever", () => {
  const allowance = new CpuAllowance(0, 0);
  assert.equal(allowance.waitMs(1000, 1000, 0.2), 250);
  assert.equal(allowance.waitMs(1250, 1050, 0.2), 250, "of the work meanwhile nothing is owed any more");
});
