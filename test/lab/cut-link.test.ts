/**
 * The link is cut before the handover: the source runs on as if nothing had happened and the target is clean, though neither can tell the
 * other.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Host } from "../../lab/host.ts";
import { migrate } from "../support/lab.ts";
import { Ordeal } from "../support/ordeal.ts";

let ordeal: Ordeal;
let a: Host;
let b: Host;

before(async () => {
  ordeal = await Ordeal.begin("tcut");
  ({ a, b } = ordeal);
});
after(() => ordeal.lab.down());

for (const phase of ["copy", "freeze"]) {
  test(`the link is cut as the phase ${phase} begins`, async () => {
    const result = await migrate(a, "redis", "b", { [phase]: () => ordeal.lab.segment.setLink("b", "down") });
    await ordeal.lab.segment.setLink("b", "up");
    assert.equal(result.outcome, "rolled-back", result.message);
    await ordeal.cleaned(b);
    await ordeal.assertUndone();
  });
}

test("the link is cut while the target restores", async () => {
  const result = await ordeal.whileRestoring(() => ordeal.lab.segment.setLink("b", "down"));
  await ordeal.lab.segment.setLink("b", "up");
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "PEER_UNREACHABLE"], result.message);
  await ordeal.cleaned(b);
  await ordeal.assertUndone();
});

test("after all that it migrates, and its client never noticed more than pauses", () => ordeal.assertMigrates());
