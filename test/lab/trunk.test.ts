/**
 * The trunk between two hosts: a redis with a volume moves there and back, and its client notices nothing but pauses, also when the link is
 * cut for a while as memory crosses, and when the target's agent is killed in the freeze.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { startAgent } from "../../lab/cluster.ts";
import type { Host } from "../../lab/host.ts";
import { assertClean, assertRuns, killAgent, migrate } from "../support/lab.ts";
import { Ordeal, VOLUME_MEGABYTES } from "../support/ordeal.ts";

let ordeal: Ordeal;
let a: Host;
let b: Host;

before(async () => {
  ordeal = await Ordeal.begin("ttrunk");
  ({ a, b } = ordeal);
});
after(() => ordeal.lab.down());

test("the target's agent is killed in the freeze: nothing has happened", async () => {
  const { outcome, message } = await migrate(a, "redis", "b", { freeze: () => killAgent(b) });
  assert.equal(outcome, "rolled-back", message);
  await startAgent(b);
  await ordeal.cleaned(b);
  await ordeal.assertUndone();
});

test("the link is cut for a while as memory crosses: it goes on", async () => {
  const cut = async (): Promise<void> => {
    await ordeal.lab.segment.setLink("b", "down");
    await sleep(3000);
    await ordeal.lab.segment.setLink("b", "up");
  };
  const { outcome, message } = await migrate(a, "redis", "b", { "post-copy": cut });
  assert.equal(outcome, "completed", message);
  await assertRuns(b, "redis");
  await assertClean(a, "redis");
});

test("it moves back, its memory copied ahead, no faster than it may, and then there once more", async () => {
  const bytesPerSecond = 2_500_000;
  const { outcome, message, report } = await migrate(b, "redis", "a", {}, "warm", { bytesPerSecond });
  assert.equal(outcome, "completed", message);
  const leastMs = ((VOLUME_MEGABYTES << 20) / bytesPerSecond) * 1000; // what the volume holds can't be packed
  assert.ok((report?.totalMs ?? 0) > leastMs, `${report?.totalMs} ms`);
  assert.ok((report?.pages.copiedAhead ?? 0) > 0);
  await assertRuns(a, "redis");
  await assertClean(b, "redis");
  await ordeal.assertMigrates();
});

test("a target that leaves its pages to the stock daemon gets them, and says that it had no use for what was copied ahead", async () => {
  await killAgent(a);
  await startAgent(a, "--page-handler", "criu");
  const refused = await migrate(b, "redis", "a", {}, "warm", { verify: true });
  assert.deepEqual([refused.outcome, refused.errorCode], ["rolled-back", "PREFLIGHT_BLOCKED"]);
  assert.match(refused.message, /migrate without --verify/);
  const { outcome, message, report } = await migrate(b, "redis", "a", {}, "warm");
  assert.equal(outcome, "completed", message);
  assert.equal(report?.pages.copiedAhead, 0);
  assert.match(report?.warnings.join("\n") ?? "", /runs with --page-handler criu/);
  await assertRuns(a, "redis");
});

test("such a target has all memory from the stock daemon before the handover, if it is to; pre-copy is refused", async () => {
  assert.equal((await migrate(a, "redis", "b")).outcome, "completed");
  const refused = await migrate(b, "redis", "a", {}, "pre-copy");
  assert.deepEqual([refused.outcome, refused.errorCode], ["rolled-back", "PREFLIGHT_BLOCKED"]);
  const { outcome, message, report } = await migrate(b, "redis", "a", {}, "stop-and-copy");
  assert.equal(outcome, "completed", message);
  assert.ok(report?.phases.every(({ name }) => name !== "post-copy"));
  await assertRuns(a, "redis");
  assert.equal((await a.run("docker", "exec", "redis", "redis-cli", "ping")).trim(), "PONG");
});
