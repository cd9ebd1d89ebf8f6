/**
 * The event hub: what a migration says reaches everyone who watches it, from its beginning, at each watcher's own pace. Events lie in
 * the journal and watchers read them there, so a slow watcher costs nothing and a lost one is not missed.
 */
import { once } from "node:events";
import { DmigrateError } from "../core/errors.ts";
import type { MigrationId } from "../core/ids.ts";
import { hasEnded } from "../core/journal-states.ts";
import type { MigrationEvent, Report } from "../core/migration.ts";
import { writeOnceRoom, type Journal } from "./journal.ts";

/** How many events a watcher reads at once. */
const BATCH = 100;

export class EventHub implements Disposable {
  readonly #journal: Journal;
  readonly #tellFailure: (id: MigrationId, error: unknown) => void;
  /** Ends that the journal has no space for yet. */
  readonly #unwritten = new Map<MigrationId, MigrationEvent>();
  readonly #over = new AbortController();

  /** @param tellFailure is told what keeps an end from being written */
  constructor(journal: Journal, tellFailure: (id: MigrationId, error: unknown) => void = () => {}) {
    this.#journal = journal;
    this.#tellFailure = tellFailure;
  }

  /** Keeps an event and wakes the watchers; never waits for them. The last is for `end`. */
  publish(id: MigrationId, event: MigrationEvent): void {
    this.#journal.append(id, event);
  }

  /**
   * Ends a migration: the watchers hear of it now, the journal, whose state it becomes, as soon as it has space for it, unless that is
   * after this was disposed of. A target, which has no report, ends a migration by `Journal.move`.
   */
  end(id: MigrationId, report: Report): void {
    const event: MigrationEvent = { kind: "ended", atMs: report.totalMs, report };
    this.#unwritten.set(id, event);
    const tellFull = (error: unknown): void => {
      this.#tellFailure(id, error);
      this.#journal.changes.emit(id);
    };
    writeOnceRoom(() => this.#journal.append(id, event), this.#over.signal, tellFull)
      .catch((error: unknown) => this.#tellFailure(id, error))
      .finally(() => this.#unwritten.delete(id));
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
      const end = this.#unwritten.get(id);
      if (end !== undefined) return void (yield end);
      await this.#change(id, signal);
    }
  }

  /** Returns once the migration has ended. Throws MIGRATION_NOT_FOUND. */
  async ended(id: MigrationId): Promise<void> {
    while (!hasEnded(this.#journal.get(id).state) && !this.#unwritten.has(id)) await this.#change(id, undefined);
  }

  [Symbol.dispose](): void {
    this.#over.abort();
  }

  async #change(id: MigrationId, signal: AbortSignal | undefined): Promise<void> {
    try {
      await once(this.#journal.changes, id, signal === undefined ? {} : { signal });
    } catch (error) {
      throw new DmigrateError("CANCELLED", `No longer watching migration ${id}; it goes on`, error);
    }
  }
}
