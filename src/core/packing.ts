/**
 * Whether what is sent is worth compressing, decided anew all the time from what was measured. Pure.
 *
 * A byte is packed if that takes less time than the link then saves, cost < (1 - ratio) / rate, and if more can be packed in the time that
 * is idle than crosses plain, cost < idle / rate. Cost and ratio are those of its class, known from samples; the rate is that of the link
 * while there was more to send than it carried.
 */
import { TRANSFER_CLASSES, type TransferClass } from "./schedule.ts";

/** Links quicker than this (bytes a millisecond) outrun any packing: nothing is tried on them. */
const RATE_MAX = 250_000;
/** One in so many frames is packed to see what that is worth. */
const SAMPLE_EVERY = 32;
/** How much a new sample says. */
const WEIGHT = 1 / 4;
/** More of the processor is always left to others. */
const IDLE_KEPT = 0.1;

/** What was measured of the packing of a class. */
interface Measured {
  /** Milliseconds for a byte. */
  costMs: number;
  /** What is left of a byte. */
  ratio: number;
}

export class Packing {
  readonly #classes = new Map<TransferClass, Measured>();
  readonly #frames = new Map<TransferClass, number>(TRANSFER_CLASSES.map((each) => [each, 0]));
  #rate = Infinity;
  #idle = 0;

  /**
   * @param rate bytes a millisecond that the link carries when it is full; Infinity if it never was
   * @param idle the share of the time (0 to 1) in which whoever packs had nothing else to do
   */
  measured(rate: number, idle: number): void {
    this.#rate = rate;
    this.#idle = idle;
  }

  /** Whether the next frame of a class is to be packed. */
  isWorth(of: TransferClass): boolean {
    if (this.#rate > RATE_MAX) return false;
    const frame = (this.#frames.get(of) ?? 0) + 1;
    this.#frames.set(of, frame);
    if (frame % SAMPLE_EVERY === 1) return true;
    const known = this.#classes.get(of);
    if (known === undefined) return false;
    const { costMs, ratio } = known;
    return costMs < Math.min(1 - ratio, this.#idle - IDLE_KEPT) / this.#rate;
  }

  /** A frame was packed. */
  packed(of: TransferClass, plainBytes: number, packedBytes: number, tookMs: number): void {
    const sample = { costMs: tookMs / plainBytes, ratio: packedBytes / plainBytes };
    const known = this.#classes.get(of) ?? sample;
    this.#classes.set(of, { costMs: mixed(known.costMs, sample.costMs), ratio: mixed(known.ratio, sample.ratio) });
  }
}

function mixed(before: number, now: number): number {
  return before + (now - before) * WEIGHT;
}
