/**
 * How much may be on its way at a time, so that a link is never idle, and what is asked for next waits for little in its queue. Pure.
 *
 * What a path holds is its rate times its round trip; what is on its way beyond that stands in a queue. Both are measured as in BBR
 * (Cardwell et al., "BBR: Congestion-Based Congestion Control", 2016). The rate is the most that was delivered, of late. The round trip is
 * the least time from an asking to the beginning of its answer; since a full path shows its queue in that, too, from time to time as little
 * as may be is on its way until an answer has come through an empty one.
 */

/** What is on its way is enough for so many round trips, by which a slow start grows, and for this: the queue holds what is too much. */
const ROUND_TRIPS = 1.25;
const QUEUE_MS = 1;
/** The beginning of an answer. */
const BEGINNING = 16;
/** A shorter while shows in what bursts a path delivers, not what it carries. */
const RATE_SAMPLE_MS = 4;
/** The rate of a path changes in that time. */
const RATE_AGE_MS = 500;
/** The round trip is measured anew after so long, and so many round trips: that costs about three. */
const ROUND_TRIP_AGE = { ms: 100, roundTrips: 100 };
/** The least of so many answers: one may have been held up. */
const PROBES = 8;

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
  /** Little else was on its way. */
  readonly isProbe: boolean;
}

export class FlightWindow {
  readonly #limits: FlightLimits;
  readonly #askings: Asking[] = [];
  #asked = 0;
  #arrived = 0;
  /** The least of late, and when that was measured. */
  #roundTrip: { readonly ms: number; readonly atMs: number } | undefined;
  /** So many answers are still to show it anew, and the least time that one of them took so far. */
  #probe: { readonly left: number; readonly leastMs: number } | undefined;
  /** What had arrived when the rate was last looked at. */
  #seen: { readonly atMs: number; readonly arrived: number } | undefined;
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
    const { min, max } = this.#limits;
    if (this.#roundTrip === undefined || this.#probe !== undefined) return min;
    const rate = Math.max(this.#rates.now, this.#rates.before);
    return Math.min(max, Math.max(min, Math.floor(rate * (ROUND_TRIPS * this.#roundTrip.ms + QUEUE_MS))));
  }

  ask(size: number, nowMs: number): void {
    this.#seen ??= { atMs: nowMs, arrived: this.#arrived };
    this.#askings.push({ atMs: nowMs, begins: this.#asked + Math.min(size, BEGINNING), isProbe: this.#probe !== undefined });
    this.#asked += size;
  }

  /** In whatever order: as much as that has arrived. */
  arrive(size: number, nowMs: number): void {
    this.#arrived += size;
    for (let first = this.#askings[0]; first !== undefined && first.begins <= this.#arrived; first = this.#askings[0]) {
      this.#askings.shift();
      this.#measureRoundTrip(nowMs - first.atMs, first.isProbe, nowMs);
    }
    this.#measureRate(nowMs);
  }

  #measureRoundTrip(ms: number, isProbe: boolean, nowMs: number): void {
    if (ms <= 0) return;
    if (this.#roundTrip === undefined || ms < this.#roundTrip.ms) this.#roundTrip = { ms, atMs: nowMs };
    if (this.#probe !== undefined && isProbe) {
      const [left, leastMs] = [this.#probe.left - 1, Math.min(this.#probe.leastMs, ms)];
      this.#probe = left > 0 ? { left, leastMs } : undefined;
      if (left === 0) this.#roundTrip = { ms: leastMs, atMs: nowMs };
    }
    const ageMs = nowMs - this.#roundTrip.atMs;
    const isOld = ageMs > Math.max(ROUND_TRIP_AGE.ms, ROUND_TRIP_AGE.roundTrips * this.#roundTrip.ms);
    if (isOld) this.#probe ??= { left: PROBES, leastMs: Infinity };
  }

  #measureRate(nowMs: number): void {
    if (this.#seen === undefined || this.#roundTrip === undefined) return;
    const elapsedMs = nowMs - this.#seen.atMs;
    if (elapsedMs < Math.max(RATE_SAMPLE_MS, this.#roundTrip.ms)) return;
    if (nowMs - this.#rates.since > RATE_AGE_MS) this.#rates = { since: nowMs, now: 0, before: this.#rates.now };
    this.#rates.now = Math.max(this.#rates.now, (this.#arrived - this.#seen.arrived) / elapsedMs);
    this.#seen = { atMs: nowMs, arrived: this.#arrived };
  }
}
