/**
 * A move of the demo's redis as tests tell it.
 */
import type { Move } from "./demo.ts";

/** Of 1000 pages 100 are written during the first round, 20 during the second; each crosses again. */
export const MOVE: Move = {
  clientDowntimeMs: 190,
  totalMs: 3500,
  phases: [
    { name: "copy", startMs: 0, endMs: 2000 },
    { name: "handover", startMs: 2000, endMs: 2500 },
    { name: "post-copy", startMs: 2500, endMs: 3500 },
  ],
  bytes: { memory: 1_120 * 4096, late: 21 * 4096 },
  pages: { demanded: 5, pushed: 15, waits: { p50Ms: 1, p99Ms: 2 } },
  rounds: [
    { pageCount: 1000, writtenCount: 100 },
    { pageCount: 100, writtenCount: 20 },
  ],
  repliesPerSecond: { before: 80_000, copy: 72_000, handover: 0, "post-copy": 60_000 },
  neighbourUnitsPerSecond: { before: 2000, copy: 1900 },
};
