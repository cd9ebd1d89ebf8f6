/**
 * What it costs to track which pages are written, by each means that this kernel has (docs/dirty-tracking.md).
 */
import { ADAPTERS } from "../src/memory/tracking/adapters.fixture.ts";
import { readMemory } from "../src/kernel/process-memory.ts";
import { ArenaProcess } from "../src/memory/arena-process.fixture.ts";
import { PAGE_BYTES } from "../src/memory/page-protocol.ts";
import type { BeginTracking, DirtyTracker } from "../src/memory/tracking/tracker.ts";
import type { Benchmark, Say } from "./benchmark.ts";
import { atMost, quantile, told, type Row } from "./rows.ts";

/** 256 MB. */
const PAGES = 65_536;
/** Each second page is a mapping of its own. */
const MAPPINGS = 1_000;
const RUNS = 9;

/** Nanoseconds of a processor at most. */
interface Goals {
  /** A call, for each page that is there. */
  readonly page: number;
  /** A call, for each page that was written. */
  readonly told: number;
  /** A call, for each mapping. */
  readonly mapping: number;
  /** For the process, a first write to a page after a call, more than without tracking. */
  readonly write: number;
}
const GOALS: Readonly<Record<string, Goals>> = {
  "write protection": { page: 50, told: 200, mapping: 10_000, write: 1_500 },
  "soft-dirty bits": { page: 100, told: 200, mapping: 10_000, write: 1_500 },
  comparison: { page: 3_000, told: 3_000, mapping: 10_000, write: 100 },
};

export const tracking: Benchmark = {
  name: "tracking",
  about: "what it costs to track which pages are written, by each means that this kernel has",
  parts: Object.entries(GOALS).map(([name, goals]) => ({
    name: name.replace(" ", "-"),
    about: `by ${name}: ${PAGES} pages, then ${MAPPINGS} mappings more`,
    minutes: 0.3,
    measure: (say) => rowsOf(name, goals, say),
  })),
};

async function rowsOf(name: string, goals: Goals, say: Say): Promise<Row[]> {
  const { begin, skip } = ADAPTERS[name] ?? {};
  if (begin === undefined || skip !== false) {
    say(String(skip));
    return [];
  }
  const { idle, written, freeze, write, plainWrite, mapping } = await costs(begin);
  return [
    atMost(`${name}: a call, nothing written, each page`, idle, "ns", goals.page),
    atMost(`${name}: a call, everything written, each page`, written, "ns", goals.told),
    atMost(`${name}: in the freeze, nothing written, each page`, freeze, "ns", goals.page),
    atMost(`${name}: a call, each mapping`, mapping, "ns", goals.mapping),
    told(`${name}: a first write, untracked`, plainWrite, "ns"),
    atMost(`${name}: a first write, more than that`, write - plainWrite, "ns", goals.write),
  ];
}

/** Medians, in nanoseconds. */
async function costs(begin: BeginTracking) {
  await using task = new ArenaProcess(PAGES, PAGES);
  await task.started();
  const zero = async (): Promise<number> => Number(await task.tell(0, "zero", 0, PAGES)) / PAGES;
  await zero();
  const plainWrite = await median(zero);
  using tracker = await begin(task.pid);
  const round = (): void => copyAll(task.pid, tracker);
  round();
  const idle = await median(async () => timed(() => tracker.written()) / PAGES);
  const freeze = await median(async () => timed(() => tracker.writtenByNow()) / PAGES);
  const write = await median(async () => {
    round();
    return await zero();
  });
  const written = await median(async () => {
    await zero();
    return timed(() => tracker.written()) / PAGES;
  });
  round();
  const before = await median(async () => timed(() => tracker.written()));
  for (let at = 0; at < MAPPINGS; at++) await task.tell(0, "split", 2 * at);
  round();
  const after = await median(async () => timed(() => tracker.written()));
  return { plainWrite, idle, freeze, write, written, mapping: (after - before) / (2 * MAPPINGS) };
}

/** As a round does. */
function copyAll(pid: number, tracker: DirtyTracker): void {
  for (const { start, end } of tracker.written()) {
    const bytes = Buffer.allocUnsafe(Math.min(end - start, 128 * PAGE_BYTES));
    for (let at = start; at < end; at += bytes.length) {
      const part = bytes.subarray(0, end - at);
      tracker.copied(at, part.subarray(0, readMemory(pid, at, part)));
    }
  }
}

/** Processor time, which other programs do not change much. */
function timed(work: () => void): number {
  const before = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) * 1e3;
}

async function median(measure: () => Promise<number>): Promise<number> {
  const values: number[] = [];
  for (let run = 0; run < RUNS; run++) values.push(await measure());
  return quantile(values);
}
