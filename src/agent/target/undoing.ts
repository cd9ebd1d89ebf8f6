/**
 * Undoing on the target goes on until it is done: an engine that is down keeps what was made, so it is asked again, and until then the
 * migration has not ended in the journal.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { MigrationId } from "../../core/ids.ts";
import type { AgentContext } from "../context.ts";

const RETRY_MS = 2_000;

/** What is being undone on this host. Disposing of it leaves what is not done to the next agent. */
export class Undoing implements Disposable {
  readonly #context: AgentContext;
  /** Tries once, or joins a try that is under way. */
  readonly #tries = new Map<MigrationId, () => Promise<void>>();
  readonly #over = new AbortController();

  constructor(context: AgentContext) {
    this.#context = context;
  }

  /**
   * Undoes a migration that is not committed, and writes into the journal that it is rolled back. Throws what the first try failed with;
   * others follow then.
   * @param work is called again if it throws, but never twice at once
   */
  async undo(id: MigrationId, work: () => Promise<void>): Promise<void> {
    let trying: Promise<void> | undefined;
    const once = async (): Promise<void> => {
      await work();
      this.#context.journal.move(id, "rolled-back");
      this.#tries.delete(id);
    };
    const attempt = (): Promise<void> => (trying ??= once().finally(() => (trying = undefined)));
    this.#tries.set(id, attempt);
    try {
      await attempt();
    } catch (error) {
      this.#context.log.error({ err: error, migration: id }, "could not undo a migration: it is tried again");
      void this.#goOn(id, attempt);
      throw error;
    }
  }

  /** Tries once more, now, if there is something that could not be undone; throws what keeps it from that. */
  again(id: MigrationId): Promise<void> | undefined {
    return this.#tries.get(id)?.();
  }

  async #goOn(id: MigrationId, attempt: () => Promise<void>): Promise<void> {
    while (this.#tries.has(id)) {
      await sleep(RETRY_MS, undefined, { signal: this.#over.signal }).catch(() => {});
      if (this.#over.signal.aborted) return;
      await attempt().catch(() => {}); // why was told the first time
    }
    this.#context.log.info({ migration: id }, "undid the migration");
  }

  [Symbol.dispose](): void {
    this.#over.abort();
  }
}
