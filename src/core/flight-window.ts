/**
 * How much may be on its way at a time, so that a link is never idle, and what is asked for next waits for little in its queue. Pure.
 *
 * What a path holds is its rate times its round trip; what is on its way beyond that stands in a queue. Both are measured as in BBR
 * (Cardwell et al., "BBR: Congestion-Based Congestion Control", 2016), from an asking to the beginning of its answer: the rate is the most
 * that was delivered meanwhile, of late; the round trip the least that it took.
 */

/** What is on its way is enough for so many round trips, by which a slow start grows, and for this: the queue holds what is too much. */
const ROUND_TRIPS = 1.25;
const QUEUE_MS = 1;
/** The beginning of an answer. */
const BEGINNING = 16;
/** The rate of a path changes in that time. */
const RATE_AGE_MS = 500;

export interface FlightLimits {
  /** What may be on its way at least, also on a slow path, and before anything was measured. */
  readonly min: number;
  readonly max: number;
}

/** Something that was asked for. */
interface Asking {
  readonly atMs: number;
  /** Its answer has begun once so much has arrived in all. */
  readonly begins: number;
  /** So much had when it was asked for. */
  readonly arrived: number;
}

export class FlightWindow {
  readonly #limits: FlightLimits;
  readonly #askings: Asking[] = [];
  #asked = 0;
  #arrived = 0;
  #roundTripMs = Infinity;
  /** The most of this while, and of the one before. */
  #rates = { since: 0, now: 0, before: 0 };

  constructor(limits: FlightLimits) {
    this.#limits = limits;
  }

  /** So much is on its way. */
  get size(): number {
    return this.#asked - this.#arrived;
  }

  /** So much may be. */
  get limit(): number {
    const rate = Math.max(this.#rates.now, this.#rates.before);
    const limit = this.#roundTripMs === Infinity ? 0 : rate * (ROUND_TRIPS * this.#roundTripMs + QUEUE_MS);
    return Math.min(this.#limits.max, Math.max(this.#limits.min, Math.floor(limit)));
  }

  ask(size: number, nowMs: number): void {
    this.#askings.push({ atMs: nowMs, begins: this.#asked + Math.min(size, BEGINNING), arrived: this.#arrived });
    this.#asked += size;
  }

  /** In whatever order: as much as that has arrived. */
  arrive(size: number, nowMs: number): void {
    this.#arrived += size;
    for (let first = this.#askings[0]; first !== undefined && first.begins <= this.#arrived; first = this.#askings[0]) {
      this.#askings.shift();
      this.#measure(first, nowMs);
    }
  }

  #measure({ atMs, arrived }: Asking, nowMs: number): void {
    const elapsedMs = nowMs - atMs;
    if (elapsedMs <= 0) return;
    if (nowMs - this.#rates.since > RATE_AGE_MS) this.#rates = { since: nowMs, now: 0, before: this.#rates.now };
    this.#rates.now = Math.max(this.#rates.now, (this.#arrived - arrived) / elapsedMs);
    this.#roundTripMs = Math.min(this.#roundTripMs, elapsedMs);
  }
}
