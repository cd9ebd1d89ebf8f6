/**
 * Long synchronous work in slices, so that the event loop gets its turn.
 */
import { setImmediate } from "node:timers/promises";

const SLICE_MS = 5;

/** Begun with the work; asked after every small piece of it. */
export class Slices {
  #untilMs = performance.now() + SLICE_MS;
  readonly #turn: () => Promise<unknown>;

  /** @param turn resolves when the work may go on, if it is work that others come before */
  constructor(turn: () => Promise<unknown> = () => Promise.resolve()) {
    this.#turn = turn;
  }

  /** True if it is time for others. */
  get over(): boolean {
    return performance.now() >= this.#untilMs;
  }

  /** Resolves when others had their turn. */
  async next(): Promise<void> {
    await setImmediate();
    await this.#turn();
    this.#untilMs = performance.now() + SLICE_MS;
  }
}
