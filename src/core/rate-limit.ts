/**
 * A limit to how many bytes are sent in a second: a token bucket. Pure. What somebody waits for is never held back, but counts: what nobody
 * waits for then waits the longer.
 */

/** So much may be sent at once after a pause. */
const BURST_MS = 10;

export class RateLimit {
  readonly #bytesPerMs: number;
  /** The time at which all that was sent so far is paid for. */
  #paidAtMs = 0;

  constructor(bytesPerSecond: number) {
    this.#bytesPerMs = bytesPerSecond / 1000;
  }

  sent(byteCount: number, nowMs: number): void {
    this.#paidAtMs = Math.max(this.#paidAtMs, nowMs - BURST_MS) + byteCount / this.#bytesPerMs;
  }

  /** For how long nothing may be sent that nobody waits for. */
  waitMs(nowMs: number): number {
    return Math.max(0, this.#paidAtMs - nowMs);
  }
}

const UNITS = { kbit: 1000, mbit: 1_000_000, gbit: 1_000_000_000 };
/** Slower, a migration would take days. */
export const BYTES_PER_SECOND_MIN = 12_500;

/** Reads a rate as tc(8) has it, like `200mbit`; returns bytes a second, undefined if it is none or too low. */
export function parseRate(text: string): number | undefined {
  const [, number, unit] = /^(\d+(?:\.\d+)?)(kbit|mbit|gbit)$/.exec(text) ?? [];
  const rate = (Number(number) * UNITS[unit as keyof typeof UNITS]) / 8; // NaN if there is no unit
  return rate >= BYTES_PER_SECOND_MIN ? rate : undefined;
}
