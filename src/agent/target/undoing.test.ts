/**
 * What could not be undone at once, because an engine was down, say.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test, type TestContext } from "node:test";
import { startAgent } from "../../../test/support/agents.ts";
import { containerId, hostName, newMigrationId, type MigrationId } from "../../core/ids.ts";
import type { AgentContext } from "../context.ts";
import { Undoing } from "./undoing.ts";

const ID = newMigrationId(1n);

/** A host to which a migration is under way. */
async function target(t: TestContext): Promise<{ context: AgentContext; undoing: Undoing }> {
  const { context } = await startAgent(t);
  context.journal.begin({
    id: ID,
    role: "target",
    container: "web",
    containerId: containerId("c".repeat(64)),
    peer: hostName("a"),
    detail: {},
  });
  const undoing = new Undoing(context);
  t.after(() => undoing[Symbol.dispose]());
  return { context, undoing };
}

/** Work that fails as often as that; `count` is how often it was begun. */
function failing(times: number): { work: () => Promise<void>; count: () => number } {
  let count = 0;
  const work = async (): Promise<void> => {
    count += 1;
    if (count <= times) throw new Error(`failure ${count}`);
  };
  return { work, count: () => count };
}

const stateOf = ({ journal }: AgentContext, id: MigrationId = ID): string => journal.get(id).state;

test("the migration has ended once it is undone", async (t) => {
  const { context, undoing } = await target(t);
  await undoing.undo(ID, failing(0).work);
  assert.equal(stateOf(context), "rolled-back");
  assert.equal(undoing.again(ID), undefined);
});

test("it is tried until it is done, and has not ended before", async (t) => {
  const { context, undoing } = await target(t);
  const { work, count } = failing(2);
  const ended = once(context.journal.changes, ID);
  await assert.rejects(undoing.undo(ID, work), { message: "failure 1" });
  assert.equal(stateOf(context), "running");
  await ended;
  assert.deepEqual([stateOf(context), count()], ["rolled-back", 3]);
});

test("who asks again learns what keeps it, or that it is done, and joins a try that is under way", async (t) => {
  const { context, undoing } = await target(t);
  const { work, count } = failing(2);
  await assert.rejects(undoing.undo(ID, work), { message: "failure 1" });
  const both = [undoing.again(ID), undoing.again(ID)];
  for (const asked of both) await assert.rejects(asked ?? assert.fail(), { message: "failure 2" });
  await undoing.again(ID);
  assert.deepEqual([stateOf(context), count()], ["rolled-back", 3]);
});

test("an agent that ends leaves the rest to the next", async (t) => {
  const { context, undoing } = await target(t);
  const { work } = failing(Infinity);
  await assert.rejects(undoing.undo(ID, work));
  undoing[Symbol.dispose]();
  assert.equal(stateOf(context), "running");
});
