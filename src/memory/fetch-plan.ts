/**
 * The judgement of the page handler: what to ask the source next. Pure: it knows no sockets and no clock.
 *
 * First the pages that tasks touched, then those around them, since tasks touch neighbours, the more of them the longer a task goes through
 * its memory; then those that they wrote last, and small
 * ranges, because that is where a task's stack, its libraries' data and its own lie: these even before the tasks run. At last all others.
 */
import { DmigrateError } from "../core/errors.ts";
import { FlightWindow, type FlightLimits } from "../core/flight-window.ts";
import type { LazyMemory } from "./lazy-memory.ts";
import type { PageRun } from "./page-protocol.ts";
import type { PageRange } from "./page-ranges.ts";

/** How much is asked for, in pages. */
export interface FetchLimits {
  /**
   * With so many on their way, no more is asked for than what a task waits for, which shares the link with them: as many as the link needs
   * and no more, within these limits.
   */
  readonly inFlight: FlightLimits;
  /** Longest GET. */
  readonly get: number;
  /** Asked for at once where a task touched a page, from that one on. */
  readonly touched: number;
  /**
   * Asked for a little later: the aligned block of this size that the touched page lies in; twice as much each time that the next touched
   * page lies just behind what was asked for, up to `aroundMax`, and this again when it lies elsewhere.
   */
  readonly around: number;
  readonly aroundMax: number;
  /** Of what was written last so many pages are asked for before the tasks run: more would take the processors from the restore. */
  readonly hot: number;
  /** Up to here a range is a small one. */
  readonly small: number;
}

/** What the source is to be asked for. */
export interface Request {
  readonly run: PageRun;
  /** A task waits for the first of them. */
  readonly isTouched: boolean;
}

/** Pages of a memory. */
export interface IndexedRun {
  readonly memory: LazyMemory;
  readonly index: number;
  readonly pageCount: number;
}

/** Pages from the one at index `from` up to the one before `end`. */
interface Trail {
  readonly memory: LazyMemory;
  from: number;
  readonly end: number;
}

/** With as many on their way as may be, more is asked for once there is room for this share of them. */
const TOGETHER = 1 / 4;

export class FetchPlan {
  readonly #memories: ReadonlyMap<number, LazyMemory>;
  readonly #limits: FetchLimits;
  #touched: { readonly memory: LazyMemory; readonly index: number }[] = [];
  readonly #around: Trail[] = [];
  /** Where the last block around a touched page ended, and how large it was. */
  readonly #lastAround = new Map<LazyMemory, { readonly end: number; readonly size: number }>();
  /** Written last on the source; then small ranges. The next one last. */
  readonly #early: Trail[];
  /** The next one last. */
  #rest: Trail[];
  #window: FlightWindow;
  #isFull = false;
  /** The tasks do not run yet: there is little that may be asked for, and the sooner it is here the better. */
  #isEarly = true;
  #demandedPages = 0;

  /** @param hot by process, what it wrote last; pages that are not lazy may be among it */
  constructor(memories: ReadonlyMap<number, LazyMemory>, limits: FetchLimits, hot: ReadonlyMap<number, readonly PageRange[]> = new Map()) {
    this.#memories = memories;
    this.#limits = limits;
    this.#window = new FlightWindow(limits.inFlight);
    const trails = trailsOf(memories);
    const small = trails.filter(({ from, end }) => end - from <= limits.small);
    const written = cut(
      [...hot].flatMap(([process, pages]) => hotTrails(memories.get(process), pages)),
      limits.hot,
    );
    this.#early = [...small, ...written.toReversed()];
    this.#rest = trails.filter(({ from, end }) => end - from > limits.small);
  }

  /** Pages asked for because tasks touched them. */
  get demandedPages(): number {
    return this.#demandedPages;
  }

  /** A task waits for a page that is not here. */
  touch(memory: LazyMemory, index: number): void {
    if (!memory.isWanted(index)) return; // on its way
    this.#touched.push({ memory, index });
    this.#around.push(this.#blockAround(memory, index));
  }

  #blockAround(memory: LazyMemory, index: number): Trail {
    const before = this.#lastAround.get(memory);
    const goesOn = before !== undefined && index >= before.end && index < before.end + before.size;
    const size = goesOn ? Math.min(this.#limits.aroundMax, before.size * 2) : this.#limits.around;
    const from = index - (index % this.#limits.around);
    const end = Math.min(from + size, memory.ranges.pageCount);
    this.#lastAround.set(memory, { end, size });
    return { memory, from, end };
  }

  /** The tasks run from now on: all pages are wanted, and what they touch must not queue behind many others. */
  resumed(): void {
    this.#isEarly = false;
  }

  /**
   * What to ask the source next, if anything now.
   * @param roomPages how many may be fetched that no task waits for
   * @param isNearAlone whether what lies around touched pages is all that may be asked for besides these
   */
  next(roomPages: number, nowMs: number, isNearAlone = false): Request | undefined {
    for (let touched = this.#touched.shift(); touched !== undefined; touched = this.#touched.shift()) {
      if (!touched.memory.isWanted(touched.index)) continue;
      this.#demandedPages += 1;
      return this.#get({ memory: touched.memory, from: touched.index, end: touched.index + this.#limits.touched }, true, nowMs);
    }
    if (!this.#hasRoom(Math.min(this.#inFlightMax, roomPages))) return undefined;
    for (const trails of isNearAlone ? [this.#around] : [this.#around, this.#early, ...(this.#isEarly ? [] : [this.#rest])]) {
      for (let trail = trails.at(-1); trail !== undefined; trail = trails.at(-1)) {
        while (trail.from < trail.end && !trail.memory.isWanted(trail.from)) trail.from += 1;
        if (trail.from < trail.end) return this.#get(trail, false, nowMs);
        trails.pop();
      }
    }
    return undefined;
  }

  /** What was on its way does not come: it is asked for anew. */
  askAgain(): void {
    this.#window = new FlightWindow(this.#limits.inFlight);
    for (const memory of this.#memories.values()) memory.askAgain();
    this.#rest = trailsOf(this.#memories);
  }

  /** Whether nothing is on its way; nor will anything be if `next` has nothing. */
  get isIdle(): boolean {
    return this.#window.size === 0;
  }

  /** Pages have come, in any order. Throws PROTOCOL if they were not asked for. */
  arrived(run: PageRun, nowMs: number): IndexedRun {
    const { process, page, pageCount } = run;
    const memory = this.#memories.get(process);
    const index = memory?.ranges.indexOf(page, pageCount);
    if (memory === undefined || index === undefined || !memory.arrived(index, pageCount)) {
      const text = `process ${process}, page ${page}, ${pageCount} pages`;
      throw new DmigrateError("PROTOCOL", `The source sent pages that were not asked for: ${text}; please report this as a bug`);
    }
    this.#window.arrive(pageCount, nowMs);
    return { memory, index, pageCount };
  }

  get #inFlightMax(): number {
    return this.#isEarly ? this.#limits.inFlight.max : this.#window.limit;
  }

  /** When as many are on their way as may be, more are asked for only once there is room for several GETs, which cross together. */
  #hasRoom(limitPages: number): boolean {
    if (this.#window.size >= limitPages) this.#isFull = true;
    else if (this.#window.size <= limitPages * (1 - TOGETHER)) this.#isFull = false;
    return !this.#isFull;
  }

  #get({ memory, from, end }: Trail, isTouched: boolean, nowMs: number): Request {
    const getMax = isTouched ? Infinity : Math.ceil(this.#inFlightMax * TOGETHER);
    const range = memory.ranges.at(from, Math.min(end - from, this.#limits.get, getMax));
    let pageCount = 1;
    while (pageCount < range.pageCount && memory.isWanted(from + pageCount)) pageCount += 1;
    memory.asked(from, pageCount);
    this.#window.ask(pageCount, nowMs);
    return { run: { process: memory.process, page: range.page, pageCount }, isTouched };
  }
}

/** All pages, the first ones last. */
function trailsOf(memories: ReadonlyMap<number, LazyMemory>): Trail[] {
  const trails = [...memories.values()].flatMap((memory) =>
    memory.ranges.all.map(({ index, pageCount }) => ({ memory, from: index, end: index + pageCount })),
  );
  return trails.toReversed();
}

/** The lazy ones of some pages. */
function hotTrails(memory: LazyMemory | undefined, pages: readonly PageRange[]): Trail[] {
  if (memory === undefined) return [];
  return pages.flatMap(({ page, pageCount }) =>
    memory.ranges.within(page, pageCount).map(({ index, pageCount: count }) => ({ memory, from: index, end: index + count })),
  );
}

/** The first pages of them. */
function cut(trails: readonly Trail[], pageCountMax: number): Trail[] {
  let room = pageCountMax;
  return trails.flatMap(({ memory, from, end }) => {
    const pageCount = Math.min(room, end - from);
    room -= pageCount;
    return pageCount > 0 ? [{ memory, from, end: from + pageCount }] : [];
  });
}
