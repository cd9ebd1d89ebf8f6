/**
 * How long somebody has to wait who may use so much processor time and no more. Pure: told the time, and what was used by then.
 */

/** So much of what was not used is kept: enough for the work between two waits, too little to be noticed by others. */
const SAVED_MS_MAX = 20;
/** So much of what was used too much has to be waited for: the rest was not the waiting one's doing, who has to get on. */
const OWED_MS_MAX = 50;

export class CpuAllowance {
  #atMs: number;
  #usedMs: number;
  /** Processor time that was used and not allowed; negative if it was allowed and not used. */
  #owedMs = 0;

  /** @param usedMs processor time used so far, all threads together */
  constructor(atMs: number, usedMs: number) {
    this.#atMs = atMs;
    this.#usedMs = usedMs;
  }

  /**
   * Notes what was used by now; returns how many milliseconds to wait before any more.
   * @param cores processors that may be used on average, more than 0; since the last call, and from now on
   */
  waitMs(atMs: number, usedMs: number, cores: number): number {
    const owedMs = this.#owedMs + (usedMs - this.#usedMs) - (atMs - this.#atMs) * cores;
    this.#owedMs = Math.min(OWED_MS_MAX, Math.max(-SAVED_MS_MAX, owedMs));
    [this.#atMs, this.#usedMs] = [atMs, usedMs];
    return Math.max(0, this.#owedMs) / cores;
  }
}
