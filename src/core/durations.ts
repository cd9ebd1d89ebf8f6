/**
 * Many durations, as far as their distribution matters: how many there were, and what a share of them was at most. Pure; takes little room
 * however many come.
 */

/** Each bucket is this much wider than the one before: what is told is at most 9 % too long. */
const BUCKETS_PER_OCTAVE = 8;
/** Shorter ones are as good as none. */
const SHORTEST_MS = 0.001;
const BUCKETS = 256;

export class Durations {
  readonly #counts = new Float64Array(BUCKETS);
  #count = 0;
  #maxMs = 0;

  add(ms: number): void {
    const bucket = Math.ceil(Math.log2(Math.max(ms, SHORTEST_MS) / SHORTEST_MS) * BUCKETS_PER_OCTAVE);
    const at = Math.min(bucket, BUCKETS - 1);
    this.#counts[at] = (this.#counts[at] ?? 0) + 1;
    this.#count += 1;
    this.#maxMs = Math.max(this.#maxMs, ms);
  }

  get count(): number {
    return this.#count;
  }

  get maxMs(): number {
    return this.#maxMs;
  }

  /** What this share of them (0 to 1) was at most; 0 if there were none. */
  quantileMs(share: number): number {
    let left = Math.max(1, Math.ceil(this.#count * share));
    for (const [bucket, count] of this.#counts.entries()) {
      left -= count;
      if (left <= 0) return Math.min(this.#maxMs, SHORTEST_MS * 2 ** (bucket / BUCKETS_PER_OCTAVE));
    }
    return 0;
  }
}
