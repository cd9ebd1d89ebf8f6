/**
 * The event hub: what a migration says reaches everyone who watches it, from its beginning, at each watcher's own pace. Events lie in
 * the journal and watchers read them there, so a slow watcher costs nothing and a lost one is not missed.
 */
import { once } from "node:events";
import { DmigrateError } from "../core/errors.ts";
import type { MigrationId } from "../core/ids.ts";
import { hasEnded } from "../core/journal-states.ts";
import type { MigrationEvent } from "../core/migration.ts";
import type { Journal } from "./journal.ts";

/** How many events a watcher reads at once. */
const BATCH = 100;

export class EventHub {
  readonly #journal: Journal;

  constructor(journal: Journal) {
    this.#journal = journal;
  }

  /**
   * Keeps an event and wakes the watchers; never waits for them. An `ended` event ends the migration in the journal, with its
   * outcome as state, so it must be the last. A target, which has no report, ends a migration by `Journal.move`.
   */
  publish(id: MigrationId, event: MigrationEvent): void {
    this.#journal.append(id, event);
  }

  /**
   * Every event from the first; ends after `ended`, or with the events so far of a migration that ended without it.
   * Throws MIGRATION_NOT_FOUND, and CANCELLED once `signal` is aborted.
   */
  async *watch(id: MigrationId, signal?: AbortSignal): AsyncGenerator<MigrationEvent, void> {
    let seen = 0;
    for (;;) {
      const ended = hasEnded(this.#journal.get(id).state);
      const batch = this.#journal.events(id, seen, BATCH);
      for (const { seq, event } of batch) {
        seen = seq;
        yield event;
      }
      if (batch.length > 0) continue;
      if (ended) return;
      await this.#change(id, signal);
    }
  }

  /** Returns once the migration has ended. Throws MIGRATION_NOT_FOUND. */
  async ended(id: MigrationId): Promise<void> {
    while (!hasEnded(this.#journal.get(id).state)) await this.#change(id, undefined);
  }

  async #change(id: MigrationId, signal: AbortSignal | undefined): Promise<void> {
    try {
      await once(this.#journal.changes, id, signal === undefined ? {} : { signal });
    } catch (error) {
      throw new DmigrateError("CANCELLED", `No longer watching migration ${id}; it goes on`, error);
    }
  }
}
