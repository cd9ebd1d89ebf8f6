/**
 * Memory that processes share, copied while the container runs: CRIU's restore can't leave it for later, so all of it has to be on the
 * target at the handover, in every mode.
 */
import { FileDecoys } from "../../criu/file-decoy.ts";
import type { OpenUserfaultfd } from "../../kernel/write-protection.ts";
import type { Tasks } from "../../memory/rounds.ts";
import { SharedRounds } from "../../memory/shared-rounds.ts";
import { CHANNELS } from "../channels.ts";
import { sendRound, untilSettled } from "./rounds-ahead.ts";
import type { SourceScope } from "./scope.ts";

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

  /** Copies all of it, then what was written meanwhile. */
  async copy(): Promise<void> {
    await untilSettled(() => this.catchUp());
  }

  /** Copies what was written since. Returns how many bytes that were. */
  async catchUp(): Promise<number> {
    const shared = this.#rounds;
    if (shared === undefined) return 0;
    const giveUp = (): void => this[Symbol.dispose]();
    return await sendRound(this.#scope, CHANNELS.sharedMemory, (sink) => shared.round(sink), giveUp);
  }

  [Symbol.dispose](): void {
    this.#rounds?.[Symbol.dispose]();
    this.#rounds = undefined;
  }
}
