/**
 * The target's end of the page plane: serves the page faults of the restored tasks, and fills what they have not touched.
 *
 * INVARIANT: a task never sees another page than its own. Its events are read before anything is put into it; a page whose mapping went
 * away is dropped; when the source fails, tasks wait. What must not happen is that the last descriptor of a userfaultfd is closed while
 * its process lacks pages: the kernel would give zeros for them. So somebody outlives this process with a duplicate (see PageKeeper).
 */
import { Durations } from "../core/durations.ts";
import { DmigrateError } from "../core/errors.ts";
import type { PageWaits } from "../core/migration.ts";
import type { TransferOrder } from "../core/schedule.ts";
import type { InputWatch } from "../kernel/epoll.ts";
import { Userfaultfd, type UserfaultEvent } from "../kernel/userfaultfd.ts";
import { FetchPlan, type FetchLimits, type IndexedRun, type Request } from "./fetch-plan.ts";
import { LazyMemory, type LazySpace, type MappedRun } from "./lazy-memory.ts";
import { PAGE_BYTES, type PageRun } from "./page-protocol.ts";
import type { IndexedRange, PageRange } from "./page-ranges.ts";
import type { PageSource, Urgency } from "./page-source.ts";
import type { GivenPages } from "./page-digests.ts";
import type { PageStore } from "./page-store.ts";

const MEBIBYTE = (1 << 20) / PAGE_BYTES;

/** Measured with redis under load on two cores. */
const LIMITS: FetchLimits = {
  inFlight: { min: MEBIBYTE / 16, max: 4 * MEBIBYTE },
  get: MEBIBYTE / 2,
  touched: 4,
  around: 32,
  aroundMax: 2 * MEBIBYTE,
  hot: 4 * MEBIBYTE,
  small: MEBIBYTE,
};

/** So many pages may have arrived that could not be given to their tasks yet. */
const KEPT_PAGES_MAX = 64 * MEBIBYTE;

/** How soon a process is tried again that is changing its mappings, or for which there is no memory. */
const RETRY_MS = 1;
/** So many pieces that were kept are given to their tasks before faults are looked at again. */
const PIECES_AT_ONCE = 4;
/** So many pages of the store are given at a time. */
const STORED_PAGES_AT_ONCE = MEBIBYTE / 4;

/** Says when more may be done that no task waits for. */
export interface FetchPace {
  /** For how many milliseconds not; asked often. */
  waitMs(): number;
}

/** Less is not waited for. */
const WAIT_MIN_MS = 1;

/** Pages, counted. */
export interface HandledPages {
  readonly total: number;
  /** Asked for because a task touched them. */
  readonly demanded: number;
  /** Those that came besides. */
  readonly pushed: number;
  /** Those that were here before the tasks. */
  readonly copiedAhead: number;
  readonly waits: PageWaits;
}

/** Pages that have arrived. */
interface Piece extends IndexedRun {
  /** Undefined if they are zeros. */
  readonly bytes: Uint8Array | undefined;
}

export class PageHandler implements Disposable {
  /** Fulfilled when no task lacks a page. Rejected with PROTOCOL, TRANSFER_FAILED or KERNEL if that can't be: the tasks wait then. */
  readonly finished: Promise<void>;
  readonly #settled = Promise.withResolvers<void>();
  /** None while it is lost. */
  #source: PageSource | undefined;
  readonly #watch: InputWatch;
  readonly #keep: (fd: number) => void;
  readonly #memories: ReadonlyMap<number, LazyMemory>;
  readonly #userfaultfds = new Map<LazySpace, Userfaultfd>();
  readonly #plan: FetchPlan;
  readonly #store: PageStore;
  readonly #given: GivenPages | undefined;
  /** What is in the store and was not given to all tasks yet, the next one last. */
  readonly #stored: (IndexedRange & { readonly memory: LazyMemory })[];
  readonly #storedPages: number;
  #arrivedPages = 0;
  /** Since when tasks wait for pages of the source that they have touched, by index. */
  readonly #waitedFor = new Map<LazyMemory, Map<number, number>>();
  readonly #waits = new Durations();
  /** What has arrived and could not be given to all tasks yet. */
  readonly #kept: Piece[] = [];
  #keptPages = 0;
  /** Faults that wait for something that is on its way; looked at again when something arrives before the restore is over. */
  readonly #waiting: { readonly space: LazySpace; readonly page: number }[] = [];
  /** Faults that could not be answered at once. */
  readonly #again: { readonly space: LazySpace; readonly page: number }[] = [];
  #willTry = false;
  readonly #storedBytes = Buffer.allocUnsafeSlow(STORED_PAGES_AT_ONCE * PAGE_BYTES);
  #isRestored = false;
  #mayFetchAhead = false;
  /** None if it is as fast as can be. */
  #pace: FetchPace | undefined;
  /** Whether what no task waits for has to wait, or has waited: then it is its turn, whatever its pace says, since it has to get on. */
  #turn: "free" | "held" | "due" = "free";
  #untilTurn: NodeJS.Timeout | undefined;
  /** Nothing that comes from the source matters any more. */
  #isOver = false;

  /**
   * @param processes the lazy ranges of each process, in ascending order
   * @param keep makes a duplicate of a userfaultfd that outlives this process
   * @param hot what each process wrote last
   * @param store what was copied ahead, as it still holds
   * @param order `fifo`: as much is on its way as may be, whoever waits
   * @param given is told what tasks are given
   */
  constructor(
    source: PageSource,
    processes: ReadonlyMap<number, readonly PageRange[]>,
    watch: InputWatch,
    keep: (fd: number) => void,
    hot: ReadonlyMap<number, readonly PageRange[]>,
    store: PageStore,
    order: TransferOrder = "priority",
    given?: GivenPages,
  ) {
    this.finished = this.#settled.promise;
    this.finished.catch(() => {}); // told to whoever waits for it
    this.#watch = watch;
    this.#keep = keep;
    this.#memories = new Map([...processes].map(([process, ranges]) => [process, new LazyMemory(process, ranges)]));
    this.#store = store;
    this.#given = given;
    this.#stored = [...this.#memories.values()].flatMap((memory) => storedOf(memory, store)).toReversed();
    this.#storedPages = this.#stored.reduce((sum, { pageCount }) => sum + pageCount, 0);
    for (const { memory, index, pageCount } of this.#stored) memory.copiedAhead(index, pageCount);
    const { min, max } = LIMITS.inFlight;
    this.#plan = new FetchPlan(this.#memories, { ...LIMITS, inFlight: { min: order === "fifo" ? max : min, max } }, hot);
    this.#connect(source);
    this.#goOn();
  }

  get counts(): HandledPages {
    const total = [...this.#memories.values()].reduce((sum, { ranges }) => sum + ranges.pageCount, 0);
    const demanded = this.#plan.demandedPages;
    const waits = {
      count: this.#waits.count,
      p50Ms: this.#waits.quantileMs(0.5),
      p99Ms: this.#waits.quantileMs(0.99),
      maxMs: this.#waits.maxMs,
    };
    return { total, demanded, pushed: this.#arrivedPages - demanded, copiedAhead: this.#storedPages, waits };
  }

  /** Takes over the userfaultfd of a process that is being restored. */
  adopt(process: number, fd: number): void {
    const memory = this.#memories.get(process) ?? new LazyMemory(process, []);
    this.#handle(memory.addSpace(), new Userfaultfd(fd));
  }

  /** @param wiped by process, where a child that it forks has zeros; none of them runs yet */
  wipedOnFork(wiped: ReadonlyMap<number, readonly PageRange[]>): void {
    for (const [process, ranges] of wiped) for (const range of ranges) this.#memories.get(process)?.wipedOnFork(range);
  }

  /** Every process was adopted and has its mappings. */
  restored(): void {
    this.#isRestored = true;
    this.#waiting.length = 0; // what arrives is given to all from now on
    for (const memory of this.#memories.values()) memory.restored();
    this.#orFail(() => this.#goOn());
  }

  /**
   * The tasks run, or wait for this: from now on all pages come. Before, the restore and the commit need the processors more.
   * @param pace of what no task waits for
   */
  fetchAhead(pace?: FetchPace): void {
    this.#mayFetchAhead = true;
    this.#pace = pace;
    this.#plan.resumed();
    this.#orFail(() => this.#goOn());
  }

  /** What was on its way when the source was lost is asked for again, of another one that has the same pages. */
  resume(source: PageSource): void {
    this.#connect(source);
    this.#plan.askAgain();
    for (const [memory, waited] of this.#waitedFor) for (const index of waited.keys()) this.#plan.touch(memory, index);
    this.#orFail(() => this.#goOn());
  }

  #connect(source: PageSource): void {
    this.#source = source;
    source.receive(
      (run, bytes) => {
        if (source === this.#source) this.#take(run, bytes); // of one that is lost all that is missing is asked for again
      },
      (error, isFinal) => {
        if (source === this.#source) this.#lose(error, isFinal);
      },
    );
  }

  /** Tasks that are restored can wait for another source: they may be about to run. A restore need not. */
  #lose(error: unknown, isFinal: boolean): void {
    if (this.#isRestored && !isFinal) this.#source = undefined;
    else this.fail(error);
  }

  /** Gives up: no more pages come. Tasks that touch what is missing wait, the others run on. */
  fail(error: unknown): void {
    if (this.#isOver) return;
    this.#stop();
    this.#settled.reject(DmigrateError.from(error, "TRANSFER_FAILED"));
    this.#source?.end();
  }

  /** Lets go of every process. Only when none lacks a page, or none will run. */
  [Symbol.dispose](): void {
    this.#stop();
    for (const space of this.#userfaultfds.keys()) this.#letGo(space);
  }

  #stop(): void {
    this.#isOver = true;
    clearTimeout(this.#untilTurn);
  }

  #orFail(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.fail(error);
    }
  }

  #handle(space: LazySpace, userfaultfd: Userfaultfd): void {
    this.#keep(userfaultfd.fd);
    this.#userfaultfds.set(space, userfaultfd);
    this.#watch.add(userfaultfd.fd, () => {
      try {
        this.#takeEvents(space, userfaultfd);
        this.#goOn();
      } catch (error) {
        this.#watch.delete(userfaultfd.fd); // its task waits, and this does not go round in circles
        this.fail(error);
      }
    });
  }

  #letGo(space: LazySpace): void {
    const userfaultfd = this.#userfaultfds.get(space);
    if (userfaultfd === undefined) return;
    space.end();
    this.#userfaultfds.delete(space);
    this.#watch.delete(userfaultfd.fd);
    userfaultfd[Symbol.dispose]();
  }

  #takeEvents(space: LazySpace, userfaultfd: Userfaultfd): void {
    for (const event of userfaultfd.read()) this.#takeEvent(space, event);
  }

  #takeEvent(space: LazySpace, event: UserfaultEvent): void {
    switch (event.kind) {
      case "fault":
        this.#fault(space, Math.floor(event.address / PAGE_BYTES));
        return;
      case "fork":
        this.#handle(space.fork(), event.child);
        return;
      case "remap":
        space.move(event.from / PAGE_BYTES, event.to / PAGE_BYTES, event.byteCount / PAGE_BYTES);
        this.#wake(space, event.from, event.from + event.byteCount);
        return;
      case "removed":
        space.remove(event.start / PAGE_BYTES, (event.end - event.start) / PAGE_BYTES);
        this.#wake(space, event.start, event.end);
    }
  }

  /** For who waits for a page that is no longer to come there: they would wait for ever. */
  #wake(space: LazySpace, start: number, end: number): void {
    this.#userfaultfds.get(space)?.wake(start, end); // an earlier event may have shown that the process has ended
  }

  #fault(space: LazySpace, page: number): void {
    const index = space.indexAt(page);
    if (index === undefined) return this.#zero(space, page);
    const { memory } = space;
    const piece = this.#pieceWith(memory, index);
    if (piece === undefined) {
      if (!this.#isRestored) this.#waiting.push({ space, page });
      this.#plan.touch(memory, index);
      this.#waitFor(memory, index);
    } else if (!this.#fill(space, { page, index, pageCount: 1 }, piece)) this.#again.push({ space, page });
  }

  /** Pages that are here, this one among them. */
  #pieceWith(memory: LazyMemory, index: number): Piece | undefined {
    const kept = this.#kept.find((each) => each.memory === memory && index >= each.index && index < each.index + each.pageCount);
    const { page } = memory.ranges.at(index, 1);
    if (kept !== undefined || !this.#store.has(memory.process, page)) return kept;
    const bytes = Buffer.allocUnsafeSlow(PAGE_BYTES);
    this.#store.read({ process: memory.process, page, pageCount: 1 }, bytes);
    return { memory, index, pageCount: 1, bytes };
  }

  /** What is missing there is not of the dump: it was mapped since, or emptied. */
  #zero(space: LazySpace, page: number): void {
    const userfaultfd = this.#userfaultfds.get(space);
    if (userfaultfd === undefined) return;
    const { obstacle } = userfaultfd.zero(page * PAGE_BYTES, PAGE_BYTES);
    switch (obstacle) {
      case undefined:
        return;
      case "present":
      case "unmapped":
        return userfaultfd.wake(page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
      case "changing":
      case "no-memory":
        return void this.#again.push({ space, page });
      case "ended":
        return this.#letGo(space);
    }
  }

  /** Gives pages to their tasks where they lie. What can't be given yet is kept, in memory of its own. */
  #take(run: PageRun, bytes: Uint8Array | undefined): void {
    if (this.#isOver) return;
    const piece = { ...this.#plan.arrived(run, performance.now()), bytes };
    this.#arrivedPages += piece.pageCount;
    this.#waitedForIn(piece);
    if (!this.#isRestored || !this.#give(piece)) {
      this.#kept.push({ ...piece, bytes: bytes === undefined ? undefined : Buffer.from(bytes) });
      this.#keptPages += piece.pageCount;
      for (const { space, page } of this.#waiting.splice(0)) this.#fault(space, page);
    }
    this.#goOn();
  }

  #waitFor(memory: LazyMemory, index: number): void {
    const waited = this.#waitedFor.get(memory) ?? new Map<number, number>();
    if (!waited.has(index)) this.#waitedFor.set(memory, waited.set(index, performance.now()));
  }

  #waitedForIn({ memory, index, pageCount }: IndexedRun): void {
    const waited = this.#waitedFor.get(memory);
    if (waited === undefined || waited.size === 0) return;
    for (let at = index; at < index + pageCount; at++) {
      const sinceMs = waited.get(at);
      if (sinceMs !== undefined && waited.delete(at)) this.#waits.add(performance.now() - sinceMs);
    }
  }

  /** Gives pages to all who lack them; false if somebody can't be given all of them yet. */
  #give(piece: Piece): boolean {
    let isDone = true;
    for (const space of piece.memory.spaces)
      for (const run of space.runs(piece.index, piece.pageCount)) isDone = this.#fill(space, run, piece) && isDone;
    return isDone;
  }

  /** Fills pages that are missing; false if not all of them can be filled yet. */
  #fill(space: LazySpace, run: MappedRun, piece: Piece): boolean {
    const userfaultfd = this.#userfaultfds.get(space);
    if (userfaultfd === undefined) return true;
    let stepPages = run.pageCount;
    let wasUnmapped = false;
    for (let done = 0; done < run.pageCount;) {
      const pageCount = Math.min(stepPages, run.pageCount - done);
      const [address, index] = [(run.page + done) * PAGE_BYTES, run.index + done];
      const offset = (index - piece.index) * PAGE_BYTES;
      const length = pageCount * PAGE_BYTES;
      const { byteCount, obstacle } =
        piece.bytes === undefined
          ? userfaultfd.zero(address, length)
          : userfaultfd.copy(address, piece.bytes.subarray(offset, offset + length));
      space.settle(index, byteCount / PAGE_BYTES);
      this.#given?.note(piece.memory.process, index, byteCount / PAGE_BYTES, piece.bytes?.subarray(offset));
      done += byteCount / PAGE_BYTES;
      switch (obstacle) {
        case undefined:
          wasUnmapped = false;
          break;
        case "present":
          userfaultfd.wake(address, address + PAGE_BYTES);
          space.settle(index, 1);
          done += 1;
          break;
        case "unmapped":
          // Several mappings, none, or one that is being moved: that would be told at the next try, since its event is still to be read.
          if (stepPages === 1 && wasUnmapped) {
            space.settle(index, 1);
            done += 1;
          }
          wasUnmapped = stepPages === 1 && !wasUnmapped;
          stepPages = 1;
          break;
        case "changing":
        case "no-memory":
          return false;
        case "ended":
          this.#letGo(space);
          return true;
      }
    }
    return true;
  }

  /** Asks, gives and ends what can be asked, given and ended now. */
  #goOn(): void {
    const hasTurn = this.#takeTurn();
    if (!this.#isOver) this.#ask(hasTurn);
    const isStoredNext = this.#mayFetchAhead && hasTurn && this.#stored.length > 0;
    const hasMore = this.#again.length > 0 || (this.#isRestored && this.#kept.length > 0) || isStoredNext;
    if (hasMore && !this.#willTry) {
      this.#willTry = true;
      setImmediate(() => this.#orFail(() => this.#tryAgain()));
    }
    const isGiven = this.#kept.length === 0 && this.#stored.length === 0;
    // With a source that is lost, or as long as it is not their turn, there may be more to ask for.
    const isAskedFor = hasTurn && this.#source !== undefined;
    if (this.#mayFetchAhead && this.#plan.isIdle && isGiven && !this.#isOver && (isAskedFor || this.#isWhole)) this.#end();
  }

  /** Whether it is the turn of what no task waits for. */
  #takeTurn(): boolean {
    if (this.#turn === "free" && this.#pace !== undefined) {
      const waitMs = this.#pace.waitMs();
      if (waitMs >= WAIT_MIN_MS) {
        this.#turn = "held";
        this.#untilTurn = setTimeout(() => {
          this.#turn = "due";
          this.#orFail(() => this.#goOn());
        }, waitMs);
      }
    } else if (this.#turn === "due") {
      this.#turn = "free";
    }
    return this.#turn !== "held";
  }

  #ask(hasTurn: boolean): void {
    if (this.#source === undefined) return;
    const runs: Record<Urgency, PageRun[]> = { demanded: [], ahead: [] };
    const next = (): Request | undefined => this.#plan.next(KEPT_PAGES_MAX - this.#keptPages, performance.now(), !hasTurn);
    for (let request = next(); request !== undefined; request = next()) runs[request.isTouched ? "demanded" : "ahead"].push(request.run);
    if (runs.demanded.length > 0) this.#source.ask(runs.demanded, "demanded");
    if (runs.ahead.length > 0) this.#source.ask(runs.ahead, "ahead");
  }

  /** Reads what changed, then tries again what could not be done. */
  #tryAgain(): void {
    for (const [space, userfaultfd] of this.#userfaultfds) this.#takeEvents(space, userfaultfd);
    for (const { space, page } of this.#again.splice(0)) this.#fault(space, page);
    let isStuck = this.#again.length > 0;
    for (const piece of this.#isRestored ? this.#kept.splice(0, PIECES_AT_ONCE) : []) {
      if (this.#give(piece)) this.#keptPages -= piece.pageCount;
      else isStuck = this.#kept.push(piece) > 0;
    }
    if (this.#mayFetchAhead && this.#turn !== "held") this.#giveStored();
    this.#willTry = isStuck;
    if (isStuck) setTimeout(() => this.#orFail(() => this.#tryAgain()), RETRY_MS);
    this.#goOn();
  }

  /** Gives some pages of the store to all who lack them, and their memory back. */
  #giveStored(): void {
    const next = this.#stored.pop();
    if (next === undefined) return;
    const { memory, page, index } = next;
    const pageCount = Math.min(next.pageCount, STORED_PAGES_AT_ONCE);
    if (pageCount < next.pageCount)
      this.#stored.push({ memory, page: page + pageCount, index: index + pageCount, pageCount: next.pageCount - pageCount });
    const run = { process: memory.process, page, pageCount };
    const bytes = this.#storedBytes.subarray(0, pageCount * PAGE_BYTES);
    this.#store.read(run, bytes);
    this.#store.free(run);
    if (this.#give({ memory, index, pageCount, bytes })) return;
    this.#kept.push({ memory, index, pageCount, bytes: Buffer.from(bytes) });
    this.#keptPages += pageCount;
  }

  /** Whether no task lacks a page. */
  get #isWhole(): boolean {
    return [...this.#userfaultfds.keys()].every(({ isWhole }) => isWhole);
  }

  #end(): void {
    if (!this.#isWhole) throw new DmigrateError("INTERNAL", "A task lacks pages that nobody asked for; please report this as a bug");
    this.#stop();
    this.#source?.end();
    this.#settled.resolve();
  }
}

/** The lazy pages of a process that are in the store. */
function storedOf(memory: LazyMemory, store: PageStore): (IndexedRange & { readonly memory: LazyMemory })[] {
  return memory.ranges.all.flatMap((range) =>
    [...store.within(memory.process, range)].map(({ page, pageCount }) => ({
      memory,
      page,
      index: range.index + page - range.page,
      pageCount,
    })),
  );
}
