/** The event hub: everyone sees everything, at their own pace. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { collect } from "../../test/support/streams.ts";
import { DmigrateError } from "../core/errors.ts";
import { containerId, hostName, newMigrationId } from "../core/ids.ts";
import type { MigrationEvent, Report } from "../core/migration.ts";
import { EventHub } from "./events.ts";
import { Journal } from "./journal.ts";

const id = newMigrationId(1n);

function hub(t: TestContext): { journal: Journal; events: EventHub } {
  const dir = mkdtempSync(join(tmpdir(), "dmigrate-events-"));
  const journal = Journal.open(dir);
  t.after(() => {
    journal[Symbol.dispose]();
    rmSync(dir, { recursive: true });
  });
  journal.begin({ id, role: "source", container: "web", containerId: containerId("a".repeat(64)), peer: hostName("b"), detail: null });
  return { journal, events: new EventHub(journal) };
}

const warning = (n: number): MigrationEvent => ({ kind: "warning", atMs: n, message: `number ${n}` });
// The hub looks at nothing but the outcome.
const ended: MigrationEvent = { kind: "ended", atMs: 999, report: { id, outcome: "rolled-back" } as Report };

test("watchers see every event in order, whether they came before or after it", async (t) => {
  const { events } = hub(t);
  const early = collect(events.watch(id));
  const all = [...Array.from({ length: 250 }, (_, n) => warning(n)), ended];
  for (const event of all) events.publish(id, event);
  const late = collect(events.watch(id));
  assert.deepEqual(await early, all);
  assert.deepEqual(await late, all);
});

test("a slow watcher holds nobody up and misses nothing", async (t) => {
  const { events } = hub(t);
  const slow = events.watch(id);
  events.publish(id, warning(0));
  assert.deepEqual((await slow.next()).value, warning(0));
  for (let n = 1; n <= 150; n++) events.publish(id, warning(n)); // nobody reads, nothing waits
  events.publish(id, ended);
  const rest = await collect(slow);
  assert.deepEqual(rest, [...Array.from({ length: 150 }, (_, n) => warning(n + 1)), ended]);
});

test("a watcher that is cut ends with CANCELLED; the others go on", async (t) => {
  const { events } = hub(t);
  const abort = new AbortController();
  const cut = collect(events.watch(id, abort.signal));
  const kept = collect(events.watch(id));
  abort.abort();
  await assert.rejects(cut, { code: "CANCELLED" });
  events.publish(id, ended);
  assert.deepEqual(await kept, [ended]);
});

test("a migration that ends by its state alone ends its watchers too", async (t) => {
  const { journal, events } = hub(t);
  const watched = collect(events.watch(id));
  events.publish(id, warning(1));
  journal.move(id, "failed");
  assert.deepEqual(await watched, [warning(1)]);
});

test("a watcher of an unknown migration is told so", async (t) => {
  const { events } = hub(t);
  await assert.rejects(collect(events.watch(newMigrationId(77n))), { code: "MIGRATION_NOT_FOUND" });
});

test("an end that the journal has no space for is told at once and written later, or left to the next agent", async (t) => {
  const { journal, events } = hub(t);
  const watching = collect(events.watch(id));
  const full = new DmigrateError("NO_SPACE", "Full; free some");
  const append = t.mock.method(journal, "append", () => {
    throw full;
  });
  events.end(id, { id, outcome: "rolled-back", totalMs: 999 } as Report); // the hub looks at nothing else
  await events.ended(id);
  assert.deepEqual(
    (await watching).map(({ kind }) => kind),
    ["ended"],
  );
  assert.deepEqual(
    (await collect(events.watch(id))).map(({ kind }) => kind),
    ["ended"],
  );
  assert.equal(journal.get(id).state, "running");
  append.mock.restore();
  while (journal.get(id).state === "running") await once(journal.changes, id);
  assert.equal(journal.get(id).state, "rolled-back");
  events[Symbol.dispose]();
});
