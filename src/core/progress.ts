/**
 * How fast a migration goes, and how long a phase still takes. Pure.
 */
import type { ByteCounts, Phase } from "./migration.ts";

const SPAN_MS = 1000;

/** Bytes a second over the last second or so. */
export class RateMeter {
  readonly #samples: { readonly atMs: number; readonly bytes: number }[] = [];

  /** Notes how many bytes there were by then; returns the rate. */
  take(atMs: number, bytes: number): number {
    this.#samples.push({ atMs, bytes });
    while (this.#samples.length > 2 && atMs - (this.#samples[0]?.atMs ?? atMs) > SPAN_MS) this.#samples.shift();
    const oldest = this.#samples[0];
    return oldest === undefined || oldest.atMs === atMs ? 0 : ((bytes - oldest.bytes) / (atMs - oldest.atMs)) * 1000;
  }
}

/** How many bytes are to cross in the phases that take long, as far as it is known. */
export type ExpectedBytes = { readonly [P in "copy" | "handover" | "post-copy"]?: number };

/**
 * Milliseconds until the phase ends; undefined if that can't be told: it is not one of these phases, nothing crosses at the moment, or all
 * that was expected is there.
 * @param rate bytes a second
 */
export function remainingMs(phase: Phase, expected: ExpectedBytes, sent: ByteCounts, rate: number): number | undefined {
  if (rate <= 0) return undefined;
  const missing =
    phase === "copy"
      ? (expected.copy ?? 0) - sent.layers - sent.files - sent.memory
      : phase === "handover" || phase === "post-copy"
        ? (expected[phase] ?? 0) - sent.memory
        : 0;
  return missing > 0 ? (missing / rate) * 1000 : undefined;
}
