/**
 * The judgement of the page proxy: which pages are where, what to ask the source next, and what to answer `criu lazy-pages`.
 *
 * Pure: it knows no sockets and no clock. Pages come in parcels, one for each GET. The client is answered in the order in which it
 * asked, each time from one parcel. Before it asks, the source is asked for the pages around those that a task touched, since tasks
 * touch neighbours, and for those that the client will want next in the background: it goes in the order of addresses.
 */
import { DmigrateError } from "../core/errors.ts";
import { AddressSpace, FRESH, TAKEN, type Trail } from "./address-space.ts";
import { PAGE_BYTES, type PageRun } from "./page-protocol.ts";
import type { PageRange } from "./page-ranges.ts";

/** How much is asked for and kept, in pages. */
export interface PlanLimits {
  /** Kept for the client, what is on its way included. One half is for pages around touched ones, the other for pages ahead. */
  readonly stored: number;
  /** With so many on their way, no more is asked for than what the client waits for, which will queue behind them. */
  readonly inFlight: number;
  /** Longest GET. */
  readonly get: number;
  /** Asked for at once where a task touched a page, from that one on. */
  readonly touched: number;
  /** Asked for a little later: the aligned block that the touched page lies in. */
  readonly around: number;
  /** An answer whose next pages are on their way waits until it has so many, unless other questions wait behind it. */
  readonly answerMin: number;
  /** Longest answer. */
  readonly answerMax: number;
}

/** Pages for the client. */
export interface PageAnswer {
  readonly run: PageRun;
  /** Their bytes, cut as they arrived. */
  readonly bytes: readonly Buffer[];
}

/** Pages, counted. */
export interface PlanCounts {
  /** All lazy pages. */
  readonly total: number;
  /** Got by the client, which asked for one at a time: CRIU does so when a task touches one. */
  readonly demanded: number;
  /** Got by the client, which asked for a range in the background. */
  readonly pushed: number;
}

interface Question {
  readonly space: AddressSpace;
  readonly index: number;
  readonly run: PageRun;
}

/** Pages that were asked for with one GET. */
interface Parcel {
  readonly id: number;
  readonly space: AddressSpace;
  readonly index: number;
  readonly asked: PageRun;
  readonly isAround: boolean;
  /** Fewer than were asked for if the source says so when it begins to answer. */
  pageCount: number;
  /** What came of it so far, as it was cut on the way. */
  readonly chunks: Buffer[];
  arrivedBytes: number;
  /** Pages that the client did not get yet. */
  left: number;
}

/** What the source has for the target, and how far it is. */
export class PagePlan {
  readonly #limits: PlanLimits;
  readonly #spaces = new Map<number, AddressSpace>();
  /** What the client asked and was not answered, the oldest first. */
  readonly #questions: Question[] = [];
  /** What is here or on its way, in the order in which it was asked for: so it arrives. */
  readonly #parcels = new Map<number, Parcel>();
  /** Those that have not arrived wholly. */
  readonly #onTheWay: Parcel[] = [];
  readonly #around: Trail[] = [];
  #totalPages = 0;
  #parcelCount = 0;
  #storedPages = 0;
  #aroundPages = 0;
  #inFlightPages = 0;
  #hasBegun = false;
  #demandedPages = 0;
  #pushedPages = 0;

  /** @param processes the lazy ranges of each process, in ascending order */
  constructor(processes: ReadonlyMap<number, readonly PageRange[]>, limits: PlanLimits) {
    this.#limits = limits;
    for (const [process, ranges] of processes) {
      const space = new AddressSpace(process, ranges);
      this.#spaces.set(process, space);
      this.#totalPages += space.pageCount;
    }
  }

  get counts(): PlanCounts {
    return { total: this.#totalPages, demanded: this.#demandedPages, pushed: this.#pushedPages };
  }

  /** Pages that are kept for the client or on their way. */
  get storedPages(): number {
    return this.#storedPages;
  }

  /** Whether the source has yet to answer something. */
  get isWaiting(): boolean {
    return this.#onTheWay.length > 0;
  }

  /**
   * The client asks. It may ask for what it has got: the child of a fork needs the same pages.
   * Throws PROTOCOL if a page of the run is not lazy: CRIU's page server would hang or end.
   */
  ask(run: PageRun): void {
    const space = this.#spaces.get(run.process);
    const index = space?.indexOf(run);
    if (space === undefined || index === undefined) {
      const text = `criu lazy-pages asked for pages that the source does not have: ${describe(run)}`;
      throw new DmigrateError("PROTOCOL", `${text}; its images do not belong to this migration`);
    }
    this.#hasBegun = true;
    this.#questions.push({ space, index, run });
    const isTouched = run.pageCount === 1;
    if (!isTouched) space.follow(index, run.pageCount);
    if (this.#isKept(space, index)) return;
    if (isTouched) this.#around.push(space.blockAround(index, this.#limits.around));
    else space.ahead.from = index;
  }

  /** What to ask the source next, if anything now. */
  nextGet(): PageRun | undefined {
    const missing = this.#questions.find(({ space, index }) => !this.#isKept(space, index));
    if (missing !== undefined) return this.#getMissing(missing);
    if (!this.#hasBegun || this.#inFlightPages >= this.#limits.inFlight) return undefined;
    return this.#getAround() ?? this.#getAhead();
  }

  /** The source begins to answer the oldest GET. Throws PROTOCOL if it answers another. */
  begin(run: PageRun): void {
    const parcel = this.#onTheWay[0];
    const asked = parcel?.asked;
    if (parcel === undefined || asked?.process !== run.process || asked.page !== run.page || asked.pageCount < run.pageCount) {
      const text = `The source's page server sent pages that it was not asked for: ${describe(run)}`;
      throw new DmigrateError("PROTOCOL", `${text}; please report this as a bug`);
    }
    parcel.space.parcelIds.fill(FRESH, parcel.index + run.pageCount, parcel.index + asked.pageCount);
    parcel.left -= asked.pageCount - run.pageCount;
    parcel.pageCount = run.pageCount;
  }

  /** Takes bytes of the answer that began last from `chunk`, from `at` on, and keeps them; returns the place behind them. */
  fill(chunk: Buffer, at: number): number {
    const parcel = this.#onTheWay[0];
    if (parcel === undefined) return at;
    const size = parcel.pageCount * PAGE_BYTES;
    const end = Math.min(chunk.length, at + size - parcel.arrivedBytes);
    parcel.chunks.push(chunk.subarray(at, end));
    parcel.arrivedBytes += end - at;
    if (parcel.arrivedBytes === size) {
      this.#onTheWay.shift();
      this.#inFlightPages -= parcel.asked.pageCount;
    }
    return end;
  }

  /** What to answer the client next, if anything now. */
  nextAnswer(): PageAnswer | undefined {
    const question = this.#questions[0];
    if (question === undefined) return undefined;
    const { space, index, run } = question;
    const max = Math.min(run.pageCount, this.#limits.answerMax);
    const bytes: Buffer[] = [];
    let pageCount = 0;
    while (pageCount < max) {
      const here = this.#bytesOf(space, index + pageCount, max - pageCount);
      if (here.length === 0) break;
      bytes.push(...here);
      pageCount += here.reduce((sum, { length }) => sum + length, 0) / PAGE_BYTES;
    }
    if (pageCount === 0) return undefined;
    const grows = pageCount < max && this.#isKept(space, index + pageCount);
    if (grows && pageCount < this.#limits.answerMin && this.#questions.length === 1) return undefined;
    this.#questions.shift();
    for (let at = index; at < index + pageCount; at++) this.#take(space, at);
    if (run.pageCount === 1) this.#demandedPages += 1;
    else this.#pushedPages += pageCount;
    return { run: { ...run, pageCount }, bytes };
  }

  /** What is here of the pages from `index` on, at most `max`, in one parcel. */
  #bytesOf(space: AddressSpace, index: number, max: number): Buffer[] {
    const parcel = this.#parcelOf(space, index);
    if (parcel === undefined) return [];
    const start = (index - parcel.index) * PAGE_BYTES;
    const arrived = parcel.arrivedBytes - (parcel.arrivedBytes % PAGE_BYTES);
    return cut(parcel.chunks, start, Math.min(start + max * PAGE_BYTES, arrived));
  }

  /** The parcel that brings or brought the page; none if it was never asked for, if the client has it, or if it was dropped. */
  #parcelOf(space: AddressSpace, index: number): Parcel | undefined {
    return this.#parcels.get(space.parcelIds[index] ?? FRESH);
  }

  #isKept(space: AddressSpace, index: number): boolean {
    return this.#parcelOf(space, index) !== undefined;
  }

  #isWanted(space: AddressSpace, index: number): boolean {
    return space.parcelIds[index] !== TAKEN && !this.#isKept(space, index);
  }

  #getMissing({ space, index, run }: Question): PageRun | undefined {
    if (run.pageCount > 1) return this.#get(space, index, Math.min(run.pageCount, this.#limits.get), false);
    const { touched } = this.#limits;
    return this.#get(space, index, this.#hasRoomAround(touched) ? touched : 1, true);
  }

  #getAround(): PageRun | undefined {
    for (let trail = this.#around[0]; trail !== undefined; trail = this.#around[0]) {
      if (this.#advance(trail) && this.#hasRoomAround(this.#limits.around))
        return this.#get(trail.space, trail.from, trail.end - trail.from, true);
      this.#around.shift();
    }
    return undefined;
  }

  #hasRoomAround(pageCount: number): boolean {
    const { stored } = this.#limits;
    return this.#aroundPages + pageCount <= stored / 2 && this.#storedPages + pageCount <= stored;
  }

  /** Of the process for which least has been asked ahead. */
  #getAhead(): PageRun | undefined {
    const share = this.#limits.stored / 2 / this.#spaces.size;
    let least: AddressSpace | undefined;
    let leastAhead = share;
    for (const space of this.#spaces.values()) {
      const ahead = space.ahead.from - space.clientAt;
      if (ahead < leastAhead && this.#advance(space.ahead)) [least, leastAhead] = [space, ahead];
    }
    return least && this.#get(least, least.ahead.from, this.#limits.get, false);
  }

  /** Goes to the next page of a trail that has to be asked for; false if there is none. */
  #advance(trail: Trail): boolean {
    while (trail.from < trail.end && !this.#isWanted(trail.space, trail.from)) trail.from++;
    return trail.from < trail.end;
  }

  /** Asks for the page at `index` and those behind it that nobody has, at most `max`. */
  #get(space: AddressSpace, index: number, max: number, isAround: boolean): PageRun | undefined {
    const run = space.runAt(index, Math.min(max, this.#limits.get));
    let pageCount = 1;
    while (pageCount < run.pageCount && this.#isWanted(space, index + pageCount)) pageCount++;
    if (!this.#makeRoom(pageCount)) return undefined;
    const asked = { ...run, pageCount };
    const parcel = { id: this.#parcelCount++, space, index, asked, isAround, pageCount, chunks: [], arrivedBytes: 0, left: pageCount };
    space.parcelIds.fill(parcel.id, index, index + pageCount);
    this.#parcels.set(parcel.id, parcel);
    this.#onTheWay.push(parcel);
    this.#storedPages += pageCount;
    this.#inFlightPages += pageCount;
    if (isAround) this.#aroundPages += pageCount;
    return asked;
  }

  /** Drops the oldest parcels, which nobody wanted for long: a task gave the memory back, or ended. False if too much is on its way. */
  #makeRoom(pageCount: number): boolean {
    for (const parcel of this.#parcels.values()) {
      if (this.#storedPages + pageCount <= this.#limits.stored) return true;
      if (parcel.arrivedBytes < parcel.pageCount * PAGE_BYTES) return false;
      this.#drop(parcel);
    }
    return true;
  }

  #take(space: AddressSpace, index: number): void {
    const parcel = this.#parcelOf(space, index);
    space.take(index);
    if (parcel === undefined) return;
    parcel.left -= 1;
    if (parcel.left === 0) this.#drop(parcel);
  }

  #drop(parcel: Parcel): void {
    this.#parcels.delete(parcel.id);
    this.#storedPages -= parcel.asked.pageCount;
    if (parcel.isAround) this.#aroundPages -= parcel.asked.pageCount;
  }
}

function describe({ process, page, pageCount }: PageRun): string {
  return `process ${process}, page ${page}, ${pageCount} pages`;
}

/** The bytes from `start` to `end` of what the chunks hold one after the other. */
function cut(chunks: readonly Buffer[], start: number, end: number): Buffer[] {
  const found: Buffer[] = [];
  let at = 0;
  for (const chunk of chunks) {
    const from = Math.max(start - at, 0);
    const to = Math.min(end - at, chunk.length);
    if (from < to) found.push(from === 0 && to === chunk.length ? chunk : chunk.subarray(from, to));
    at += chunk.length;
  }
  return found;
}
