/**
 * The content of memory that CRIU dumps in the freeze whatever the mode, copied while the container runs: what of it CRIU's images have
 * need not cross again.
 */
import { ContentRounds, type Container } from "../../memory/content-rounds.ts";
import type { KnownRun } from "../../memory/known-content.ts";
import { CHANNELS } from "../channels.ts";
import { sendRound, untilSettled } from "./rounds-ahead.ts";
import type { SourceScope } from "./scope.ts";

/** Of one migration. */
export class ContentAhead {
  readonly #scope: SourceScope;
  #rounds: ContentRounds | undefined;

  constructor(scope: SourceScope, container: Container) {
    this.#scope = scope;
    this.#rounds = new ContentRounds(container);
  }

  /** Copies all of it, then what was written meanwhile. */
  async copy(): Promise<void> {
    await untilSettled(() => this.catchUp());
  }

  /** Copies what the target has not had. Returns how many bytes that were. */
  async catchUp(): Promise<number> {
    const rounds = this.#rounds;
    if (rounds === undefined) return 0;
    const { pace } = this.#scope;
    const turn = async (): Promise<void> => {
      this.#scope.cancelled.throwIfAborted(); // as long as nothing is sent nobody else notices
      await pace.turn();
    };
    const giveUp = (): void => void (this.#rounds = undefined);
    return await sendRound(this.#scope, CHANNELS.content, (sink) => rounds.round(sink, turn), giveUp);
  }

  /** What the target has of some content, in order; undefined if it has nothing. */
  known(content: Uint8Array): readonly KnownRun[] | undefined {
    const known = this.#rounds?.known;
    return known === undefined || known.pageCount === 0 ? undefined : known.runs(content);
  }
}
