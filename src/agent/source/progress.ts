/**
 * Says a few times a second how far a migration is.
 */
import { totalBytes, type ByteCounts, type MigrationEvent, type Phase } from "../../core/migration.ts";
import { RateMeter, remainingMs, type ExpectedBytes } from "../../core/progress.ts";

const PROGRESS_INTERVAL_MS = 200;

/** How far it is, in milliseconds since it began, and what has crossed and is expected to. */
interface Progress {
  readonly atMs: number;
  readonly phase: Phase;
  readonly bytes: ByteCounts;
  readonly expected: ExpectedBytes;
}

/** Until disposed of. */
export function tellProgress(read: () => Progress, tell: (event: MigrationEvent) => void): Disposable {
  const rate = new RateMeter();
  const timer = setInterval(() => {
    const { atMs, phase, bytes, expected } = read();
    const bytesPerSecond = rate.take(atMs, totalBytes(bytes));
    const remaining = remainingMs(phase, expected, bytes, bytesPerSecond);
    const estimate = remaining === undefined ? {} : { remainingMs: remaining };
    tell({ kind: "progress", atMs, phase, bytes, rate: bytesPerSecond, ...estimate });
  }, PROGRESS_INTERVAL_MS);
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
