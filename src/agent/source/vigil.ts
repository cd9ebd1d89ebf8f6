/**
 * While a container stands still for its target, that is asked for signs of life more often than as long as it runs: a link that is cut
 * just then costs the container seconds.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError } from "../../core/errors.ts";
import type { HostName, MigrationId } from "../../core/ids.ts";
import type { PeerCalls } from "../migrations.ts";

const INTERVAL_MS = 500;
/** A target is busy while it restores, but not for as long. */
const LIMIT_MS = 2_000;

/** What is watched. */
export interface Watched {
  readonly id: MigrationId;
  readonly container: string;
  readonly host: HostName;
  readonly calls: Pick<PeerCalls, "state">;
}

export class Vigil implements Disposable {
  readonly #watched: Watched;
  readonly #lost = new AbortController();
  readonly #over = new AbortController();

  constructor(watched: Watched) {
    this.#watched = watched;
  }

  /** Aborted with PEER_UNREACHABLE, or what else the target answers, if it is lost between `begin` and the end. */
  get signal(): AbortSignal {
    return this.#lost.signal;
  }

  /** From now on the target has to answer; once. */
  begin(): void {
    this.#watch().catch((error: unknown) => {
      if (!this.#over.signal.aborted) this.#lost.abort(error);
    });
  }

  /** From now on it need not. */
  [Symbol.dispose](): void {
    this.#over.abort();
  }

  async #watch(): Promise<void> {
    const { id, container, host, calls } = this.#watched;
    const { signal: over } = this.#over;
    for (;;) {
      await sleep(INTERVAL_MS, undefined, { signal: over });
      const limit = AbortSignal.timeout(LIMIT_MS);
      await calls.state(id, { signal: AbortSignal.any([over, limit]) }).catch((error: unknown) => {
        if (!limit.aborted) throw error;
        const text = `Host ${host} did not answer for ${LIMIT_MS / 1000} s while ${container} stood still; check its agent and the network`;
        throw new DmigrateError("PEER_UNREACHABLE", text, error);
      });
    }
  }
}
