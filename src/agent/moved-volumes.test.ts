/**
 * What the journal says of volumes that came and went.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { containerId, hostName, newMigrationId } from "../core/ids.ts";
import type { Role } from "../core/journal-states.ts";
import type { JournalState } from "../core/migration.ts";
import { Journal } from "./journal.ts";
import { hasMovedAway } from "./moved-volumes.ts";

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
function migrated(role: Role, ...states: JournalState[]): void {
  const id = newMigrationId(count++);
  const detail = { volumes: [{ name: "data", identity: "1-1" }] };
  journal.begin({ id, role, container: "db", containerId: containerId("a".repeat(64)), peer: hostName("b"), detail });
  for (const state of states) journal.move(id, state);
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
