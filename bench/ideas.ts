/**
 * What each of the three ideas is worth: the same migration with it and without, by turns, so that whatever else the machine does meanwhile
 * counts for all alike.
 */
import type { Benchmark, Say } from "./benchmark.ts";
import { demo, lostSeconds, percentIn, type DemoOptions, type Move } from "./demo.ts";
import { atLeast, medianOf, told, type Row } from "./rows.ts";

/** So many labs of each kind, with so many moves in each. */
const TURNS = 3;
const MOVES = 2;

export const ideas: Benchmark = {
  name: "ideas",
  about: "what each of the three ideas is worth: the same migration with it and without, by turns",
  parts: [
    {
      name: "dump-plan",
      about: "beside two busy neighbours, copied as planned, and with --dump-plan fixed",
      minutes: 6,
      measure: async (say) => dumpPlanRows(await byTurns({ planned: BUSY, fixed: { ...BUSY, "dump-plan": "fixed" } }, say)),
    },
    {
      name: "post-copy",
      about: "with memory that follows (warm), and in modes pre-copy and stop-and-copy",
      minutes: 7,
      measure: async (say) =>
        postCopyRows(
          await byTurns({ warm: { mode: "warm" }, "pre-copy": { mode: "pre-copy" }, "stop-and-copy": { mode: "stop-and-copy" } }, say),
        ),
    },
    {
      name: "order",
      about: "all memory after the handover over a link of 1 Gbit/s, with the priorities, and with --order fifo",
      minutes: 6,
      measure: async (say) => orderRows(await byTurns({ priority: FULL_LINK, fifo: { ...FULL_LINK, order: "fifo" } }, say)),
    },
  ],
};

const BUSY = { mode: "warm", neighbours: 2 } as const;
const FULL_LINK = { mode: "post-copy", rate: "1gbit" } as const;

/** Moves of each kind, a lab of one after a lab of another. */
export async function byTurns<Kind extends string>(
  kinds: Readonly<Record<Kind, Omit<DemoOptions, "moves">>>,
  say: Say,
  move: (options: DemoOptions) => Promise<Move[]> = demo,
): Promise<Record<Kind, Move[]>> {
  const names = Object.keys(kinds) as Kind[]; // a record literal has no other keys
  const moves = Object.fromEntries(names.map((name) => [name, []])) as unknown as Record<Kind, Move[]>; // each of its names
  for (let turn = 1; turn <= TURNS; turn++) {
    for (const name of names) {
      say(`${name}, ${turn} of ${TURNS}`);
      moves[name].push(...(await move({ ...kinds[name], moves: MOVES })));
    }
  }
  return moves;
}

/** A quantity of moves of each kind. */
function each(kinds: Readonly<Record<string, readonly Move[]>>, what: string, unit: string, quantity: (move: Move) => number): Row[] {
  return Object.entries(kinds).map(([name, moves]) => told(`${what}, ${name}`, medianOf(moves, quantity), unit));
}

/** How many times as large a quantity is in moves of one kind as in those of the other. */
function times(some: readonly Move[], others: readonly Move[], quantity: (move: Move) => number): number {
  return medianOf(some, quantity) / medianOf(others, quantity);
}

const downtimeMs = (move: Move): number => move.clientDowntimeMs;
const neighboursCopying = (move: Move): number => percentIn("copy", move.neighbourUnitsPerSecond);
const waitMs = (move: Move): number => move.pages.waits.p50Ms;
const totalSeconds = (move: Move): number => move.totalMs / 1000;

export function dumpPlanRows({ planned, fixed }: Record<"planned" | "fixed", readonly Move[]>): Row[] {
  const all = { planned, fixed };
  return [
    ...each(all, "neighbours while copying, of undisturbed", "%", neighboursCopying),
    ...each(all, "client while copying, of undisturbed", "%", (move) => percentIn("copy", move.repliesPerSecond)),
    ...each(all, "downtime beside neighbours", "ms", downtimeMs),
    ...each(all, "migration beside neighbours", "s", totalSeconds),
    atLeast("neighbours while copying, planned over fixed", times(planned, fixed, neighboursCopying), "times", 1.1),
  ];
}

export function postCopyRows(all: Record<"warm" | "pre-copy" | "stop-and-copy", readonly Move[]>): Row[] {
  return [
    ...each(all, "downtime", "ms", downtimeMs),
    ...each(all, "migration", "s", totalSeconds),
    ...each(all, "work the client lost, as undisturbed time", "s", lostSeconds),
    atLeast("downtime, pre-copy over warm", times(all["pre-copy"], all.warm, downtimeMs), "times", 1.3),
    atLeast("downtime, stop-and-copy over warm", times(all["stop-and-copy"], all.warm, downtimeMs), "times", 3),
  ];
}

export function orderRows({ priority, fifo }: Record<"priority" | "fifo", readonly Move[]>): Row[] {
  const all = { priority, fifo };
  return [
    // A move has some forty waits: 99 % of them is the longest, which begins before all is under way.
    ...each(all, "a task waits for a page, p50", "ms", waitMs),
    ...each(all, "a task waits for a page, p99", "ms", (move) => move.pages.waits.p99Ms),
    ...each(all, "downtime over 1 Gbit/s", "ms", downtimeMs),
    ...each(all, "client in post-copy, of undisturbed", "%", (move) => percentIn("post-copy", move.repliesPerSecond)),
    ...each(all, "migration over 1 Gbit/s", "s", totalSeconds),
    atLeast("a task waits for a page, p50, fifo over priority", times(fifo, priority, waitMs), "times", 3),
  ];
}
