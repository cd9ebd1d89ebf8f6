/**
 * The lazy memory of one process as it was dumped, and what each address space that was made of it still lacks. Pure.
 *
 * Pages of the dump are named by their index among the lazy ones; a *space* says where in a running process they belong. A forked
 * child is another space of the same memory.
 */
import { PageRanges, type IndexedRange, type PageRange } from "./page-ranges.ts";
import { lastAtMost } from "./search.ts";

/** Successive pages of the dump and of a process. */
export interface MappedRun {
  /** The first page in the process: its address divided by the page size. */
  readonly page: number;
  readonly index: number;
  readonly pageCount: number;
}

/** What of a page the source was told, and has sent. */
const UNASKED = 0;
const ASKED = 1;
const ARRIVED = 2;

/** What the source was asked for. A page is asked for once, and comes once: afterwards it is here, or was given to all who lack it. */
export class LazyMemory {
  /** The process id inside the container's namespace. */
  readonly process: number;
  readonly ranges: PageRanges;
  readonly spaces = new Set<LazySpace>();
  readonly #progress: Uint8Array;
  /** Of which a forked child has zeros. */
  readonly #wipedOnFork: IndexedRange[] = [];
  #isRestored = false;

  /** @param ranges in ascending order */
  constructor(process: number, ranges: readonly PageRange[]) {
    this.process = process;
    this.ranges = new PageRanges(ranges);
    this.#progress = new Uint8Array(this.ranges.pageCount);
  }

  /** The space of the restored process. */
  addSpace(): LazySpace {
    return new LazySpace(this, this.ranges.all, new Uint8Array(this.ranges.pageCount).fill(1));
  }

  /** From now on no spaces come but by forks: a page that none lacks is needed no more. */
  restored(): void {
    this.#isRestored = true;
  }

  /** A child that is forked from now on has zeros in place of these. */
  wipedOnFork({ page, pageCount }: PageRange): void {
    this.#wipedOnFork.push(...this.ranges.within(page, pageCount));
  }

  /** Of what a process lacks, what its child does. */
  inherited(lacking: Uint8Array): Uint8Array {
    const inherited = lacking.slice();
    for (const { index, pageCount } of this.#wipedOnFork) inherited.fill(0, index, index + pageCount);
    return inherited;
  }

  /** Whether the source must still be asked for a page. */
  isWanted(index: number): boolean {
    if (this.#progress[index] !== UNASKED) return false;
    if (!this.#isRestored) return true;
    for (const space of this.spaces) if (space.lacks(index)) return true;
    return false;
  }

  /** These pages are here without being asked for. */
  copiedAhead(index: number, pageCount: number): void {
    this.#progress.fill(ARRIVED, index, index + pageCount);
  }

  asked(index: number, pageCount: number): void {
    this.#progress.fill(ASKED, index, index + pageCount);
  }

  /** What was asked for and has not come is wanted again. */
  askAgain(): void {
    for (const [index, each] of this.#progress.entries()) if (each === ASKED) this.#progress[index] = UNASKED;
  }

  /** These pages have come. Returns false, and changes nothing, if one of them was not on its way. */
  arrived(index: number, pageCount: number): boolean {
    if (!this.#progress.subarray(index, index + pageCount).every((each) => each === ASKED)) return false;
    this.#progress.fill(ARRIVED, index, index + pageCount);
    return true;
  }
}

/** One address space, as far as it is made of lazy pages. It belongs to its memory until `end`. */
export class LazySpace {
  readonly memory: LazyMemory;
  /** 1 for each page that it lacks. */
  readonly #lacking: Uint8Array;
  #byPage: readonly MappedRun[];
  #byIndex: readonly MappedRun[];

  constructor(memory: LazyMemory, mapped: readonly MappedRun[], lacking: Uint8Array) {
    this.memory = memory;
    this.#lacking = lacking;
    this.#byPage = mapped.toSorted((a, b) => a.page - b.page);
    this.#byIndex = mapped.toSorted((a, b) => a.index - b.index);
    memory.spaces.add(this);
  }

  lacks(index: number): boolean {
    return this.#lacking[index] === 1;
  }

  /** Whether it lacks nothing. */
  get isWhole(): boolean {
    return !this.#lacking.includes(1);
  }

  /** Which page belongs at `page` and is missing there; undefined if what is missing there begins with zeros. */
  indexAt(page: number): number | undefined {
    const run = this.#byPage[lastAtMost(page, this.#byPage.length, (at) => this.#byPage[at]?.page)];
    if (run === undefined || page >= run.page + run.pageCount) return undefined;
    const index = run.index + page - run.page;
    return this.lacks(index) ? index : undefined;
  }

  /** Where those of the pages from `index` on belong that are missing. */
  runs(index: number, pageCount: number): MappedRun[] {
    const runs: MappedRun[] = [];
    const end = index + pageCount;
    for (let at = index; at < end;) {
      const mapped = this.lacks(at) ? this.#byIndex[lastAtMost(at, this.#byIndex.length, (n) => this.#byIndex[n]?.index)] : undefined;
      let length = 1;
      if (mapped !== undefined) {
        const last = Math.min(end, mapped.index + mapped.pageCount);
        while (at + length < last && this.lacks(at + length)) length += 1;
        runs.push({ page: mapped.page + at - mapped.index, index: at, pageCount: length });
      }
      at += length;
    }
    return runs;
  }

  /** These pages are there. */
  settle(index: number, pageCount: number): void {
    this.#lacking.fill(0, index, index + pageCount);
  }

  /** What comes to these pages of the process next begins with zeros. */
  remove(page: number, pageCount: number): void {
    for (const run of this.#byPage) {
      const cut = overlap(run, page, pageCount);
      if (cut !== undefined) this.settle(cut.index, cut.pageCount);
    }
  }

  /** What was at `from` is at `to` now. */
  move(from: number, to: number, pageCount: number): void {
    this.remove(to, pageCount);
    const moved = this.#byPage.map((run) => overlap(run, from, pageCount)).filter((run) => run !== undefined);
    const kept = this.#byPage.flatMap((run) => without(run, from, pageCount)).flatMap((run) => without(run, to, pageCount));
    const mapped = [...kept, ...moved.map(({ page, index, pageCount: count }) => ({ page: page + to - from, index, pageCount: count }))];
    this.#byPage = mapped.toSorted((a, b) => a.page - b.page);
    this.#byIndex = mapped.toSorted((a, b) => a.index - b.index);
  }

  /** The space of a child that was forked now. */
  fork(): LazySpace {
    return new LazySpace(this.memory, this.#byPage, this.memory.inherited(this.#lacking));
  }

  /** The process has ended. */
  end(): void {
    this.memory.spaces.delete(this);
  }
}

/** The part of a run that lies within the pages from `page` on. */
function overlap(run: MappedRun, page: number, pageCount: number): MappedRun | undefined {
  const start = Math.max(run.page, page);
  const end = Math.min(run.page + run.pageCount, page + pageCount);
  return start < end ? { page: start, index: run.index + start - run.page, pageCount: end - start } : undefined;
}

/** The parts of a run before and behind those pages. */
function without(run: MappedRun, page: number, pageCount: number): MappedRun[] {
  const end = run.page + run.pageCount;
  return [overlap(run, run.page, page - run.page), overlap(run, page + pageCount, end - page - pageCount)].filter(
    (part) => part !== undefined,
  );
}
