/**
 * What a benchmark is: parts, each of which can be measured by itself, and how long is left while they are.
 */
import type { Row } from "./rows.ts";

/** Is told what is being measured. */
export type Say = (line: string) => void;

export interface Part {
  readonly name: string;
  /** What it measures, in a line. */
  readonly about: string;
  /** How long it takes on two processors that have nothing else to do, about. */
  readonly minutes: number;
  readonly measure: (say: Say) => Promise<Row[]>;
}

export interface Benchmark {
  readonly name: string;
  readonly about: string;
  readonly parts: readonly Part[];
}

/** Measures one part after the other; yields the rows of each as soon as they are there. */
export async function* measureParts(parts: readonly Part[], say: Say, now = () => performance.now()): AsyncGenerator<Row[], void> {
  const beganAtMs = now();
  for (const [nth, part] of parts.entries()) {
    const left = minutesLeft(parts, nth, (now() - beganAtMs) / 60_000);
    say(`${nth + 1} of ${parts.length}, ${part.name}: ${part.about} (${inMinutes(left)} left)`);
    yield await part.measure((line) => say(`  ${line}`));
  }
}

/** A slow machine shows in what is done already. */
function minutesLeft(parts: readonly Part[], doneCount: number, elapsedMinutes: number): number {
  const [done, left] = [sumOf(parts.slice(0, doneCount)), sumOf(parts.slice(doneCount))];
  return done === 0 ? left : (left * elapsedMinutes) / done;
}

function sumOf(parts: readonly Part[]): number {
  return parts.reduce((sum, { minutes }) => sum + minutes, 0);
}

/** What there is to measure, a line each, with how long it takes. */
export function listOf(benchmarks: readonly Benchmark[]): string[] {
  const width = Math.max(...benchmarks.flatMap(({ parts }) => parts.map(({ name }) => name.length)));
  return benchmarks.flatMap(({ name, about, parts }) => [
    `${name}: ${about} (${inMinutes(sumOf(parts))})`,
    ...parts.map((part) => `  ${part.name.padEnd(width)}  ${part.about} (${inMinutes(part.minutes)})`),
  ]);
}

function inMinutes(minutes: number): string {
  return minutes < 1 ? "under 1 min" : `about ${Math.round(minutes)} min`;
}
