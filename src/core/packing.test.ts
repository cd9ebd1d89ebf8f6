/** What is packed: only what the link is slower for than the packing, and only with a processor that has time for it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Packing } from "./packing.ts";
import type { TransferClass } from "./schedule.ts";

const FRAME = 65_536;
/** Bytes a millisecond. */
const MBIT_100 = 12_500;
const GBIT_10 = 1_250_000;

/** The share of a thousand frames that is packed, each to that share of its size in that time. */
function share(packing: Packing, of: TransferClass, ratio: number, tookMs: number): number {
  let count = 0;
  for (let frame = 0; frame < 1000; frame++) {
    if (!packing.isWorth(of)) continue;
    packing.packed(of, FRAME, FRAME * ratio, tookMs);
    count += 1;
  }
  return count / 1000;
}

test("on a slow link what can be packed is, what can't is only tried", () => {
  const packing = new Packing();
  packing.measured(MBIT_100, 0.9);
  assert.ok(share(packing, "layers", 0.4, 0.2) > 0.99);
  assert.ok(share(packing, "memory", 1, 0.2) < 0.05);
});

test("on a quick link nothing is packed, nor before its rate is known", () => {
  const packing = new Packing();
  assert.equal(share(packing, "layers", 0.1, 0.1), 0);
  packing.measured(GBIT_10, 1);
  assert.equal(share(packing, "layers", 0.1, 0.1), 0);
});

test("nothing is packed without an idle processor, nor if that takes longer than the link", () => {
  const packing = new Packing();
  packing.measured(MBIT_100, 0.1);
  assert.ok(share(packing, "layers", 0.4, 0.2) < 0.05);
  packing.measured(MBIT_100, 1);
  assert.ok(share(packing, "files", 0.4, 5) < 0.05);
});

test("it follows what it sees", () => {
  const packing = new Packing();
  packing.measured(MBIT_100, 0.9);
  assert.ok(share(packing, "memory", 1, 0.2) < 0.05);
  assert.ok(share(packing, "memory", 0.3, 0.2) > 0.5, "there is something else in memory now");
  packing.measured(GBIT_10, 0.9);
  assert.equal(share(packing, "memory", 0.3, 0.2), 0);
});
