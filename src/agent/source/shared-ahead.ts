/**
 * Memory that processes share, copied while the container runs: CRIU's restore can't leave it for later, so all of it has to be on the
 * target at the handover, in every mode.
 */
import { DmigrateError, messageOf } from "../../core/errors.ts";
import { FileDecoys } from "../../criu/file-decoy.ts";
import type { OpenUserfaultfd } from "../../kernel/write-protection.ts";
import type { Tasks } from "../../memory/rounds.ts";
import { SharedRounds } from "../../memory/shared-rounds.ts";
import { CHANNELS } from "../channels.ts";
import { sendStream } from "../link.ts";
import { pacedPages } from "./pace.ts";
import type { SourceScope } from "./scope.ts";

/** Rounds go on while they have more than this, and each at most half of what the one before had. */
const SETTLED_BYTES = 8 << 20;
const SHRUNK = 0.5;

/** Of one migration. Disposing of it leaves nothing in the tasks. */
export class SharedAhead implements Disposable {
  readonly #scope: SourceScope;
  #rounds: SharedRounds | undefined;

  constructor(scope: SourceScope, tasks: Tasks, open: OpenUserfaultfd) {
    this.#scope = scope;
    if (FileDecoys.isPossible) this.#rounds = new SharedRounds(tasks, open); // otherwise CRIU dumps it all the same
  }

  /** None if nothing is copied ahead: CRIU dumps all that there is then. */
  get rounds(): SharedRounds | undefined {
    return this.#rounds;
  }

  /** Copies all of it, then what was written meanwhile, until that is little or does not get less. */
  async copy(): Promise<void> {
    let before = Infinity;
    for (let sent = await this.catchUp(); sent > SETTLED_BYTES && sent <= before * SHRUNK; sent = await this.catchUp()) before = sent;
  }

  /** Copies what was written since. Returns how many bytes that were. */
  async catchUp(): Promise<number> {
    const shared = this.#rounds;
    if (shared === undefined) return 0;
    const channel = await this.#scope.channel(CHANNELS.sharedMemory, "memory");
    try {
      await sendStream(channel, () => shared.round(pacedPages(this.#scope.pace, channel)));
      await channel.close();
    } catch (error) {
      if (DmigrateError.from(error).code !== "NO_SPACE") throw error;
      this.#scope.warn(`${messageOf(error)}: that memory crosses while the container stands still`);
      this[Symbol.dispose]();
    }
    return channel.counts.sent;
  }

  [Symbol.dispose](): void {
    this.#rounds?.[Symbol.dispose]();
    this.#rounds = undefined;
  }
}
