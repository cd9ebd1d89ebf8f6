/**
 * What the journal says of volumes that came and went.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { containerId, hostName, newMigrationId, type MigrationId } from "../core/ids.ts";
import type { Role } from "../core/journal-states.ts";
import type { JournalState, Report } from "../core/migration.ts";
import { Journal } from "./journal.ts";
import { hasMovedAway } from "./moved-volumes.ts";

const CONTAINER = containerId("a".repeat(64));
let folder: string;
let journal: Journal;
let count = 0n;

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), "dmigrate-volumes-"));
  journal = Journal.open(folder);
});
afterEach(() => {
  journal[Symbol.dispose]();
  rmSync(folder, { recursive: true });
});

/** A migration of a container with volume `data` that went through these states. */
function migrated(role: Role, ...states: JournalState[]): MigrationId {
  const id = newMigrationId(count++);
  const detail = { volumes: [{ name: "data", identity: "1-1" }] };
  journal.begin({ id, role, container: "db", containerId: CONTAINER, peer: hostName("b"), detail });
  for (const state of states) journal.move(id, state);
  return id;
}

test("a volume that no migration took away is somebody's", () => {
  assert.equal(hasMovedAway(journal, "data", "1-1"), false);
  migrated("source", "rolled-back");
  assert.equal(hasMovedAway(journal, "data", "1-1"), false);
  migrated("source", "committed", "failed");
  assert.equal(hasMovedAway(journal, "data", "1-1"), false);
});

test("one that moved away is not needed, until it comes back", () => {
  migrated("source", "committed", "completed");
  assert.equal(hasMovedAway(journal, "data", "1-1"), true);
  assert.equal(hasMovedAway(journal, "other", "1-1"), false);
  assert.equal(hasMovedAway(journal, "data", "2-2"), false, "a later volume of the same name");
  migrated("target", "rolled-back");
  assert.equal(hasMovedAway(journal, "data", "1-1"), true);
  migrated("target", "prepared", "owner", "completed");
  assert.equal(hasMovedAway(journal, "data", "1-1"), false);
  migrated("source", "committed", "completed");
  assert.equal(hasMovedAway(journal, "data", "1-1"), true);
});

/** What became of a migration that lost memory. */
function memoryLost(id: MigrationId): Report {
  return {
    id,
    container: "db",
    containerId: CONTAINER,
    source: hostName("a"),
    target: hostName("b"),
    mode: "post-copy",
    outcome: "failed",
    totalMs: 1,
    downtimeMs: 1,
    phases: [],
    steps: [],
    bytes: { memory: 0, files: 0, layers: 0, metadata: 0, total: 0, late: 0 },
    pages: { total: 0, copiedAhead: 0, demanded: 0, pushed: 0, zero: 0, waits: { count: 0, p50Ms: 0, p99Ms: 0, maxMs: 0 } },
    rounds: [],
    plans: [],
    warnings: [],
    error: { code: "MEMORY_LOST", message: "The link broke; restart it" },
  };
}

test("one whose container was handed over and then lost memory has moved away all the same", () => {
  const id = migrated("source", "committed");
  journal.append(id, { kind: "ended", atMs: 1, report: memoryLost(id) });
  assert.equal(hasMovedAway(journal, "data", "1-1"), true);
});
