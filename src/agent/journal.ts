/**
 * The journal: which migrations this host takes part in, in which state, and what they said.
 */
import type { ContainerId, HostName, MigrationId } from "../core/ids.ts";
import type { JournalState, MigrationEvent, Phase, Report } from "../core/migration.ts";

export type Role = "source" | "target";

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

/** Every method is synchronous. What `begin` and `move` write is on disk when they return. */
export interface Journal extends Disposable {
  /** Enters a migration. Throws MIGRATION_IN_PROGRESS if one of the same container has not ended. */
  begin(migration: NewMigration): MigrationRecord;
  /** Changes a migration's state, and its detail if given. Throws INTERNAL if the transition is not in `mayFollow` of src/core/journal-states.ts. */
  move(id: MigrationId, state: JournalState, detail?: unknown): void;
  /** Changes the detail alone, durably. */
  note(id: MigrationId, detail: unknown): void;
  /** Throws MIGRATION_NOT_FOUND. */
  get(id: MigrationId): MigrationRecord;
  find(id: MigrationId): MigrationRecord | undefined;
  /** All, the newest first. */
  list(): readonly MigrationRecord[];
  /** Those that have not ended, the oldest first. */
  unfinished(role: Role): readonly MigrationRecord[];
  /** Appends an event. `ended` also moves the migration to its outcome and keeps the report, in one durable transaction. */
  append(id: MigrationId, event: MigrationEvent): void;
  /** Events after the `after`-th, at most `limit`. */
  events(id: MigrationId, after: number, limit: number): readonly { readonly seq: number; readonly event: MigrationEvent }[];
}
