/** The journal on a real disk: what survives, what is refused. */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { test, type TestContext } from "node:test";
import { DmigrateError } from "../core/errors.ts";
import { containerId, hostName, newMigrationId } from "../core/ids.ts";
import type { Report } from "../core/migration.ts";
import { Journal, writeOnceRoom, type NewMigration } from "./journal.ts";

function directory(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), "dmigrate-journal-"));
  t.after(() => rmSync(dir, { recursive: true }));
  return dir;
}

function entry(n: number, changes: Partial<NewMigration> = {}): NewMigration {
  return {
    id: newMigrationId(BigInt(n)),
    role: "source",
    container: `web-${n}`,
    containerId: containerId("c".repeat(64)),
    peer: hostName("b"),
    detail: { step: n },
    ...changes,
  };
}

test("what one agent wrote, the next one reads", (t) => {
  const dir = directory(t);
  const { id } = entry(1);
  {
    using journal = Journal.open(dir);
    journal.begin(entry(1));
    journal.append(id, { kind: "phase-began", atMs: 1, phase: "copy" });
    journal.move(id, "committed", { step: "handed over" });
  }
  using journal = Journal.open(dir);
  const { beganAtMs, ...record } = journal.get(id);
  assert.deepEqual(record, { ...entry(1), state: "committed", phase: "copy", detail: { step: "handed over" } });
  assert.ok(Math.abs(beganAtMs - Date.now()) < 60_000);
  assert.deepEqual(journal.events(id, 0, 10), [{ seq: 1, event: { kind: "phase-began", atMs: 1, phase: "copy" } }]);
});

test("on a full disk the way is left out, what decides is refused, and the end is written once there is room", async (t) => {
  const dir = directory(t);
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", dir]);
  using _mount = { [Symbol.dispose]: () => void execFileSync("umount", ["--lazy", dir]) };
  const { id } = entry(1);
  {
    using journal = Journal.open(dir);
    journal.begin(entry(1));
    assert.throws(() => writeFileSync(join(dir, "fill"), Buffer.alloc(1 << 20)), { code: "ENOSPC" });
    for (let atMs = 0; atMs < 100; atMs++) journal.append(id, { kind: "warning", atMs, message: "x".repeat(1000) });
    assert.ok(journal.events(id, 0, 200).length < 100);
    const full = { code: "NO_SPACE", message: /No space is left in .* for the journal of migrations; free some/ };
    assert.throws(() => journal.move(id, "committed"), full);
    assert.throws(() => journal.begin(entry(2)), full);
    assert.equal(journal.get(id).state, "running");

    const told = Promise.withResolvers<DmigrateError>();
    const writing = writeOnceRoom(() => journal.move(id, "rolled-back"), new AbortController().signal, told.resolve);
    assert.equal((await told.promise).code, "NO_SPACE");
    rmSync(join(dir, "fill"));
    await writing;
    await assert.rejects(
      writeOnceRoom(() => journal.move(id, "completed"), new AbortController().signal, assert.fail),
      { code: "INTERNAL" },
      "what is wrong otherwise is told at once",
    );
  }
  using journal = Journal.open(dir);
  assert.equal(journal.get(id).state, "rolled-back");
});

test("what waits for room gives up when its agent ends", async () => {
  const full = new DmigrateError("NO_SPACE", "Full; free some");
  const over = new AbortController();
  const waiting = writeOnceRoom(
    () => {
      throw full;
    },
    over.signal,
    () => over.abort(),
  );
  await assert.rejects(waiting, full);
});

test("an agent killed in the middle leaves what it committed, and its lock is gone", async (t) => {
  const dir = directory(t);
  const script = `
    const { Journal } = await import(${JSON.stringify(import.meta.resolve("./journal.ts"))});
    const journal = Journal.open(${JSON.stringify(dir)});
    journal.begin(${JSON.stringify(entry(1))});
    journal.move(${JSON.stringify(entry(1).id)}, "committed");
    console.log("written");
    setInterval(() => {}, 1000);`;
  const agent = spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: ["ignore", "pipe", "inherit"] });
  await once(agent.stdout, "data");
  assert.throws(() => Journal.open(dir), { code: "AGENT", message: /Another agent uses/ });
  agent.kill("SIGKILL");
  await once(agent, "exit");
  using journal = Journal.open(dir);
  assert.equal(journal.get(entry(1).id).state, "committed");
});

test("only one opens it, also within a process", (t) => {
  const dir = directory(t);
  {
    using first = Journal.open(dir);
    assert.deepEqual(first.list(), []);
    assert.throws(() => Journal.open(dir), { code: "AGENT", message: /Another agent uses .*--state-dir/ });
  }
  Journal.open(dir)[Symbol.dispose]();
});

test("only root can read it", (t) => {
  const dir = directory(t);
  using journal = Journal.open(dir);
  journal.begin(entry(1));
  for (const file of ["journal.db", "journal.db-wal"]) assert.equal(statSync(join(dir, file)).mode & 0o777, 0o600, file);
});

test("a newer schema is refused by its number, and left as it is", (t) => {
  const dir = directory(t);
  Journal.open(dir)[Symbol.dispose]();
  const newer = new DatabaseSync(join(dir, "journal.db"));
  newer.exec("PRAGMA user_version = 7");
  newer.close();
  assert.throws(() => Journal.open(dir), { code: "AGENT", message: /newer release of Dmigrate \(schema 7, known: 1\)/ });
});

test("a file that is no journal is refused", (t) => {
  const dir = directory(t);
  writeFileSync(join(dir, "journal.db"), "not a database, but long enough to be taken for one".repeat(10));
  assert.throws(() => Journal.open(dir), { code: "AGENT", message: /Cannot open the journal .*; repair it/ });
});

test("an illegal transition throws and changes nothing", (t) => {
  using journal = Journal.open(directory(t));
  const { id } = journal.begin(entry(1));
  assert.throws(() => journal.move(id, "completed"), { code: "INTERNAL" });
  assert.throws(() => journal.move(id, "owner"), { code: "INTERNAL" });
  assert.equal(journal.get(id).state, "running");
});

test("a container is in one migration at a time, and may be in another afterwards", (t) => {
  using journal = Journal.open(directory(t));
  journal.begin(entry(1, { container: "redis" }));
  assert.throws(() => journal.begin(entry(2, { container: "redis" })), {
    code: "MIGRATION_IN_PROGRESS",
    message: /`dmigrate watch m000000000001`$/,
  });
  journal.begin(entry(3, { container: "other", role: "target" }));
  assert.throws(() => journal.begin(entry(4, { container: "other" })), {
    code: "MIGRATION_IN_PROGRESS",
    message: /`dmigrate watch m000000000003` on host b$/,
  });
  journal.move(entry(1).id, "rolled-back");
  journal.begin(entry(2, { container: "redis" }));
  assert.deepEqual(
    journal.list().map((record) => record.id),
    [2, 3, 1].map((n) => entry(n).id),
  );
});

test("recovery finds what has not ended, by role, the oldest first", (t) => {
  using journal = Journal.open(directory(t));
  for (const n of [1, 2, 3]) journal.begin(entry(n));
  journal.begin(entry(4, { role: "target" }));
  journal.move(entry(2).id, "failed");
  journal.move(entry(4).id, "prepared");
  journal.move(entry(4).id, "owner");
  assert.deepEqual(
    journal.unfinished("source").map((record) => record.id),
    [entry(1).id, entry(3).id],
  );
  assert.deepEqual(
    journal.unfinished("target").map((record) => record.state),
    ["owner"],
  );
});

test("the end keeps the report, drops the progress and is final", (t) => {
  using journal = Journal.open(directory(t));
  const { id } = journal.begin(entry(1));
  // The journal looks at nothing but the outcome.
  const report = { id, outcome: "rolled-back", totalMs: 12 } as Report;
  const bytes = { memory: 1, files: 2, layers: 3, metadata: 4 };
  journal.append(id, { kind: "warning", atMs: 1, message: "slow" });
  journal.append(id, { kind: "progress", atMs: 2, phase: "copy", bytes, rate: 5 });
  journal.append(id, { kind: "ended", atMs: 12, report });
  assert.equal(journal.get(id).state, "rolled-back");
  assert.deepEqual(journal.get(id).report, report);
  assert.deepEqual(
    journal.events(id, 0, 10).map(({ seq, event }) => [seq, event.kind]),
    [
      [1, "warning"],
      [3, "ended"],
    ],
  );
  assert.throws(() => journal.append(id, { kind: "warning", atMs: 13, message: "late" }), { code: "INTERNAL" });
});

test("a source cannot end as completed without having committed", (t) => {
  using journal = Journal.open(directory(t));
  const { id } = journal.begin(entry(1));
  assert.throws(() => journal.append(id, { kind: "ended", atMs: 1, report: { id, outcome: "completed" } as Report }), { code: "INTERNAL" });
  assert.equal(journal.get(id).state, "running");
  assert.deepEqual(journal.events(id, 0, 10), []);
});
