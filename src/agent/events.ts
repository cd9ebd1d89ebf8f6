/**
 * The event hub: what a migration says reaches everyone who watches it, from its beginning, at each watcher's own pace.
 */
import type { MigrationId } from "../core/ids.ts";
import type { MigrationEvent } from "../core/migration.ts";

export interface EventHub {
  /**
   * Keeps an event and tells the watchers; never waits for them. An `ended` event ends the migration in the journal, with its
   * outcome as state, so it must be the last. On a target, which has no report, `Journal.move` to an outcome ends it instead.
   */
  publish(id: MigrationId, event: MigrationEvent): void;
  /** Every event from the first; ends after `ended`, or when the migration ended without it. Throws MIGRATION_NOT_FOUND. */
  watch(id: MigrationId, signal?: AbortSignal): AsyncIterable<MigrationEvent>;
}
