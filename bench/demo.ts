/**
 * The demo's redis, measured: `dmigrate demo` moves it, and tells of each move what it took and what clients noticed.
 */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import * as z from "zod";
import type { TransferOrder } from "../src/core/schedule.ts";
import type { Mode, Phase } from "../src/core/migration.ts";
import { PAGE_BYTES } from "../src/memory/page-protocol.ts";

const DMIGRATE = fileURLToPath(new URL("../bin/dmigrate", import.meta.url));

/** In a second, undisturbed just before the move and in each of its phases. */
const rates = z.record(z.string(), z.number());
const move = z.looseObject({
  clientDowntimeMs: z.number(),
  totalMs: z.number(),
  phases: z.array(z.looseObject({ name: z.string(), startMs: z.number(), endMs: z.number() })),
  bytes: z.looseObject({ memory: z.number(), late: z.number() }),
  pages: z.looseObject({ demanded: z.number(), pushed: z.number(), waits: z.looseObject({ p50Ms: z.number(), p99Ms: z.number() }) }),
  rounds: z.array(z.looseObject({ pageCount: z.number(), writtenCount: z.number() })),
  repliesPerSecond: rates,
  neighbourUnitsPerSecond: rates,
});

/** A report, what its client waited for, and how that and the neighbours got on. */
export type Move = z.infer<typeof move>;

/** As the demo's own, by default its defaults. */
export interface DemoOptions {
  readonly moves: number;
  readonly megabytes?: number;
  readonly rate?: string;
  readonly mode?: Mode;
  readonly neighbours?: number;
  readonly order?: TransferOrder;
  readonly "dump-plan"?: "measured" | "fixed";
}

/** Runs the demo. Throws if not everything that it proves holds. */
export async function demo(options: DemoOptions): Promise<Move[]> {
  const flags = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const { stdout } = await promisify(execFile)(DMIGRATE, ["demo", "--name", "bench", "--no-verify", "--json", ...flags]);
  return z.looseObject({ verified: z.literal(true), moves: z.array(move) }).parse(JSON.parse(stdout)).moves;
}

/** How long a phase took. */
export function phaseMs({ phases }: Move, phase: Phase): number {
  const span = phases.find(({ name }) => name === phase);
  if (span === undefined) throw new RangeError(`there was no ${phase}`);
  return span.endMs - span.startMs;
}

/** How much of what it does undisturbed somebody did in a phase, in percent. */
export function percentIn(phase: Phase, { before, ...during }: Move["repliesPerSecond"]): number {
  return ((during[phase] ?? NaN) / (before ?? NaN)) * 100;
}

/** How long the client would have needed, undisturbed, for what it could not do from the beginning to the end, in seconds. */
export function lostSeconds({ phases, repliesPerSecond: { before = NaN, ...during } }: Move): number {
  return phases.reduce((sum, { name, startMs, endMs }) => sum + ((endMs - startMs) / 1000) * (1 - (during[name] ?? NaN) / before), 0);
}

/** Pages that crossed once more, because they were written after they had crossed, of those that were written: in percent. */
export function againPercent({ rounds, pages }: Move): number {
  const again = rounds.slice(1).reduce((sum, { pageCount }) => sum + pageCount, pages.demanded + pages.pushed);
  return (again / rounds.reduce((sum, { writtenCount }) => sum + writtenCount, 0)) * 100;
}

/** Bytes of memory that crossed from the freeze on, of the pages that were written since the last round began: in percent. */
export function latePercent({ rounds, bytes }: Move): number {
  return (bytes.late / ((rounds.at(-1)?.writtenCount ?? NaN) * PAGE_BYTES)) * 100;
}
