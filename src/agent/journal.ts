/**
 * The journal: which migrations this host takes part in, in which state, and what they said. A SQLite file that also serves as
 * the lock of the state directory, since SQLite's own lock on it goes with the process that held it.
 */
import { EventEmitter } from "node:events";
import { chmodSync, closeSync, constants, openSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";
import { DmigrateError, messageOf } from "../core/errors.ts";
import type { ContainerId, HostName, MigrationId } from "../core/ids.ts";
import { assertMayFollow, FIRST_STATE, hasEnded, type Role } from "../core/journal-states.ts";
import type { JournalState, MigrationEvent, Phase, Report } from "../core/migration.ts";

/** How often what could not be written is tried again. */
const ROOM_RETRY_MS = 1_000;

/**
 * Writes what must not be left out, as soon as there is space for it. Throws what `write` throws otherwise, and NO_SPACE once `over` is
 * aborted.
 */
export async function writeOnceRoom(write: () => void, over: AbortSignal, tellFull: (error: DmigrateError) => void): Promise<void> {
  for (let isTold = false; ; isTold = true) {
    try {
      return write();
    } catch (error) {
      if (!(error instanceof DmigrateError) || error.code !== "NO_SPACE" || over.aborted) throw error;
      if (!isTold) tellFull(error);
      await sleep(ROOM_RETRY_MS, undefined, { signal: over }).catch(() => {}); // and once more
    }
  }
}

/** One migration as this host knows it. */
export interface MigrationRecord {
  readonly id: MigrationId;
  readonly role: Role;
  /** The container's name. */
  readonly container: string;
  readonly containerId: ContainerId;
  /** The host on the other side. */
  readonly peer: HostName;
  readonly state: JournalState;
  /** The phase that began last. */
  readonly phase?: Phase;
  /** Unix time. */
  readonly beganAtMs: number;
  readonly report?: Report;
  /** What recovery needs, plain JSON; its owner checks it when reading. */
  readonly detail: unknown;
}

/** A migration to be entered; its state is `running`, on either side. */
export type NewMigration = Pick<MigrationRecord, "id" | "role" | "container" | "containerId" | "peer" | "detail">;

/** An event and its place among the migration's events, from 1. */
export interface KeptEvent {
  readonly seq: number;
  readonly event: MigrationEvent;
}

/** The layout below; raised with every change to it. */
const SCHEMA_VERSION = 1;

const SCHEMA = `
  CREATE TABLE migrations (
    id TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    container TEXT NOT NULL,
    container_id TEXT NOT NULL,
    peer TEXT NOT NULL,
    state TEXT NOT NULL,
    phase TEXT,
    began_at_ms INTEGER NOT NULL,
    report TEXT,
    detail TEXT NOT NULL
  ) STRICT;
  CREATE TABLE events (
    migration TEXT NOT NULL REFERENCES migrations (id),
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    event TEXT NOT NULL,
    PRIMARY KEY (migration, seq)
  ) STRICT, WITHOUT ROWID;
`;

/** Every method is synchronous. What says it is durable is on disk when it returns. All that write throw NO_SPACE. */
export class Journal implements Disposable {
  /** Tells by a migration's id that its state or its events changed. */
  readonly changes = new EventEmitter<Record<MigrationId, []>>().setMaxListeners(0);
  readonly #db: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();

  readonly #stateDir: string;

  private constructor(db: DatabaseSync, stateDir: string) {
    this.#db = db;
    this.#stateDir = stateDir;
  }

  /**
   * Opens the journal in `stateDir`, making it if there is none. Throws AGENT if another agent has it open, if a newer release
   * wrote it, or if it cannot be read.
   * @param waitMs how long to wait, in which nothing else happens, for one that has it open
   */
  static open(stateDir: string, waitMs = 0): Journal {
    const path = join(stateDir, "journal.db");
    let db: DatabaseSync | undefined;
    try {
      closeSync(openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600));
      chmodSync(path, 0o600);
      db = new DatabaseSync(path, { timeout: waitMs });
      db.exec("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; BEGIN IMMEDIATE");
      migrateSchema(db, path);
      db.exec("COMMIT");
      return new Journal(db, stateDir);
    } catch (error) {
      db?.close();
      throw refusal(error, path, stateDir);
    }
  }

  /** Throws MIGRATION_IN_PROGRESS if a migration of a container of that name has not ended. */
  assertFree(container: string): void {
    const rival = this.list().find((other) => other.container === container && !hasEnded(other.state));
    if (rival === undefined) return;
    const place = rival.role === "source" ? "" : ` on host ${rival.peer}`;
    throw new DmigrateError(
      "MIGRATION_IN_PROGRESS",
      `Container ${container} is in migration ${rival.id} already; watch it with \`dmigrate watch ${rival.id}\`${place}`,
    );
  }

  /** Enters a migration, durably. Throws MIGRATION_IN_PROGRESS if one of the same container has not ended. */
  begin(migration: NewMigration): MigrationRecord {
    const { id, role, container, containerId, peer, detail } = migration;
    this.assertFree(container);
    this.#run(
      `INSERT INTO migrations (id, role, container, container_id, peer, state, began_at_ms, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
      id,
      role,
      container,
      containerId,
      peer,
      FIRST_STATE,
      Date.now(),
      JSON.stringify(detail),
    );
    return this.get(id);
  }

  /** Changes a migration's state, and its detail if given, durably. Throws INTERNAL if the new state may not follow. */
  move(id: MigrationId, state: JournalState, detail: unknown = this.get(id).detail): void {
    const record = this.get(id);
    assertMayFollow(record.role, record.state, state);
    this.#run("UPDATE migrations SET state = ?, detail = ? WHERE id = ?", state, JSON.stringify(detail), id);
    this.changes.emit(id);
  }

  /** Changes the detail alone, durably. */
  note(id: MigrationId, detail: unknown): void {
    this.get(id);
    this.#run("UPDATE migrations SET detail = ? WHERE id = ?", JSON.stringify(detail), id);
  }

  /** Throws MIGRATION_NOT_FOUND. */
  get(id: MigrationId): MigrationRecord {
    const record = this.find(id);
    if (record === undefined) {
      throw new DmigrateError("MIGRATION_NOT_FOUND", `This host knows no migration ${id}; \`dmigrate list\` shows those it knows`);
    }
    return record;
  }

  find(id: MigrationId): MigrationRecord | undefined {
    const row = this.#statement("SELECT * FROM migrations WHERE id = ?").get(id);
    return row === undefined ? undefined : recordOf(row);
  }

  /** All, the newest first. */
  list(): readonly MigrationRecord[] {
    return this.#statement("SELECT * FROM migrations ORDER BY rowid DESC").all().map(recordOf);
  }

  /** Those that have not ended, the oldest first. */
  unfinished(role: Role): readonly MigrationRecord[] {
    return this.list()
      .filter((record) => record.role === role && !hasEnded(record.state))
      .toReversed();
  }

  /**
   * Appends an event; throws INTERNAL after the end. `ended` also moves the migration to its outcome and keeps the report, durably;
   * the progress it made is dropped then. Other events may be lost if the machine fails or the disk is full: they are not worth a wait
   * for it inside a freeze, nor a migration.
   */
  append(id: MigrationId, event: MigrationEvent): void {
    const record = this.get(id);
    if (hasEnded(record.state))
      throw new DmigrateError("INTERNAL", `Migration ${id} has ended and can say no more; please report this as a bug`);
    if (event.kind === "ended") assertMayFollow(record.role, record.state, event.report.outcome);
    try {
      this.#db.exec(`PRAGMA synchronous = ${event.kind === "ended" ? "FULL" : "NORMAL"}; BEGIN`);
      this.#run(
        "INSERT INTO events SELECT ?, coalesce(max(seq), 0) + 1, ?, ? FROM events WHERE migration = ?",
        id,
        event.kind,
        JSON.stringify(event),
        id,
      );
      if (event.kind === "phase-began") this.#run("UPDATE migrations SET phase = ? WHERE id = ?", event.phase, id);
      if (event.kind === "ended") {
        this.#run("UPDATE migrations SET state = ?, report = ? WHERE id = ?", event.report.outcome, JSON.stringify(event.report), id);
        this.#run("DELETE FROM events WHERE migration = ? AND kind = 'progress'", id);
      }
      this.#db.exec("COMMIT; PRAGMA synchronous = FULL");
    } catch (error) {
      if (this.#db.isTransaction) this.#db.exec("ROLLBACK"); // SQLite has done so itself if there was no space
      this.#db.exec("PRAGMA synchronous = FULL");
      const refused = this.#refused(error);
      if (event.kind !== "ended" && refused instanceof DmigrateError && refused.code === "NO_SPACE") return;
      throw refused;
    }
    this.changes.emit(id);
  }

  /** Events after the `after`-th, at most `limit`. */
  events(id: MigrationId, after: number, limit: number): readonly KeptEvent[] {
    const rows = this.#statement("SELECT seq, event FROM events WHERE migration = ? AND seq > ? ORDER BY seq LIMIT ?").all(
      id,
      after,
      limit,
    );
    // Rows are as `append` wrote them.
    return rows.map((row) => ({ seq: Number(row["seq"]), event: JSON.parse(String(row["event"])) as MigrationEvent }));
  }

  /** What a migration has warned of last. */
  lastWarning(id: MigrationId): string | undefined {
    const row = this.#statement("SELECT event FROM events WHERE migration = ? AND kind = 'warning' ORDER BY seq DESC LIMIT 1").get(id);
    if (row === undefined) return undefined;
    const event = JSON.parse(String(row["event"])) as MigrationEvent; // as `append` wrote it
    return event.kind === "warning" ? event.message : undefined;
  }

  [Symbol.dispose](): void {
    this.#db.close();
  }

  #run(sql: string, ...values: SQLInputValue[]): void {
    try {
      this.#statement(sql).run(...values);
    } catch (error) {
      throw this.#refused(error);
    }
  }

  #refused(error: unknown): unknown {
    if (!hasErrorCode(error, SQLITE_FULL)) return error;
    const text = `No space is left in ${this.#stateDir} for the journal of migrations; free some on that file system`;
    return new DmigrateError("NO_SPACE", text, error);
  }

  #statement(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.#db.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }
}

function migrateSchema(db: DatabaseSync, path: string): void {
  const version = Number(db.prepare("PRAGMA user_version").get()?.["user_version"]);
  if (version > SCHEMA_VERSION) {
    throw new DmigrateError(
      "AGENT",
      `${path} was written by a newer release of Dmigrate (schema ${version}, known: ${SCHEMA_VERSION}); install that release again`,
    );
  }
  if (version === 0) db.exec(`${SCHEMA} PRAGMA user_version = ${SCHEMA_VERSION}`);
}

/** SQLite's result code for a database that another connection has locked, https://sqlite.org/rescode.html#busy */
const SQLITE_BUSY = 5;
/** Likewise for one that can't grow. */
const SQLITE_FULL = 13;

function hasErrorCode(error: unknown, code: number): boolean {
  return error instanceof Error && "errcode" in error && error.errcode === code;
}

function refusal(error: unknown, path: string, stateDir: string): DmigrateError {
  if (error instanceof DmigrateError) return error;
  if (hasErrorCode(error, SQLITE_BUSY)) {
    return new DmigrateError("AGENT", `Another agent uses ${stateDir}; stop it, or give this one its own with --state-dir`, error);
  }
  return new DmigrateError(
    "AGENT",
    `Cannot open the journal ${path}: ${messageOf(error)}; repair it, or move it away to begin a new one`,
    error,
  );
}

/** Reads a row as `begin`, `move` and `append` wrote it. */
function recordOf(row: Record<string, unknown>): MigrationRecord {
  return {
    id: row["id"] as MigrationId,
    role: row["role"] as Role,
    container: row["container"] as string,
    containerId: row["container_id"] as ContainerId,
    peer: row["peer"] as HostName,
    state: row["state"] as JournalState,
    ...(row["phase"] === null ? {} : { phase: row["phase"] as Phase }),
    beganAtMs: row["began_at_ms"] as number,
    ...(row["report"] === null ? {} : { report: JSON.parse(row["report"] as string) as Report }),
    detail: JSON.parse(row["detail"] as string) as unknown,
  };
}
