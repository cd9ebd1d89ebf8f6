/**
 * Copies the memory of running tasks ahead, in rounds: the first has all of it, each later one what was written since the one before.
 * What was written after the last round is told in the freeze.
 *
 * Each round begins with a moment in which the tasks stand still: which pages were written is asked then. For a task that is just about
 * to write by a system call has had the page's protection taken away already, and may write after the page was told and protected anew.
 * Memory into which something writes that does not stand still (src/kernel/unseen-writers.ts) is not copied ahead, nor is what can't be
 * tracked or read: it stays with the source until it is asked for (docs/decisions/0015-warm.md).
 */
import { processIn } from "../kernel/tasks.ts";
import { hasUnseenWriters } from "../kernel/unseen-writers.ts";
import { encodeMessage, PAGE_BYTES, type PageRun } from "./page-protocol.ts";
import { pageCountOf, type PageRange } from "./page-ranges.ts";
import { PageReaders, type ReadChunk, type ReadContent, type ReadPlan, type ReadTask } from "./page-readers.ts";
import { pagesOf, type BeginTracking, type DirtyTracker, type WrittenPages } from "./tracking/tracker.ts";
import { WriteProtectionTracker } from "./tracking/write-protection-tracker.ts";

/** Where nobody says how to read. */
const READ_PLAN = { workers: 1, chunkPages: 128 };

/** The tasks of a container, which come and go. */
export interface Tasks {
  /** Process ids on this host, as they are now. */
  pids(): readonly number[];
  /** Has all of them stand still until what it returns is disposed of. */
  hold(): Promise<AsyncDisposable>;
}

/** Where a round goes: to a `PageStore`. */
export interface RoundSink {
  /**
   * Sends pages; returns when they have left.
   * @param read puts pages of a run where they are to leave from; returns how many
   */
  sendPages(runs: Iterable<PageRun>, read: (run: PageRun, into: Uint8Array) => number): Promise<void>;
  /** Sends what arrives behind the pages. */
  send(bytes: Uint8Array): Promise<void>;
}

/** A task whose writes are tracked. */
interface TrackedTask {
  /** Its process id inside the container. */
  readonly process: number;
  readonly tracker: DirtyTracker;
}

/**
 * What crossed in a round, and what was written since it began: until the next one did or, of the last one, when that was told last. All
 * memory of a new process counts as written.
 */
export interface RoundCounts {
  pageCount: number;
  writtenCount: number;
}

export class MemoryRounds implements WrittenPages, Disposable {
  readonly isRest = true;
  readonly #source: Tasks;
  readonly #begin: BeginTracking;
  readonly #readers: PageReaders;
  /** By process id on this host; undefined for a task that can't be tracked. */
  readonly #tasks = new Map<number, TrackedTask | undefined>();
  /** Of each round so far. */
  readonly counts: RoundCounts[] = [];
  #unseenCount = 0;

  /** How many processes were left out because something else may write into their memory. */
  get unseenCount(): number {
    return this.#unseenCount;
  }

  /** What one reader reads, bytes a second; undefined until it was measured. */
  get readerRate(): number | undefined {
    return this.#readers.readerRate;
  }

  /** @param plan how many read at once, and how much at a time; asked again and again */
  constructor(source: Tasks, begin: BeginTracking = (pid) => WriteProtectionTracker.begin(pid), plan: ReadPlan = () => READ_PLAN) {
    this.#source = source;
    this.#begin = begin;
    this.#readers = new PageReaders(plan);
  }

  /** Sends the next round. The tasks run. */
  async round(sink: RoundSink): Promise<void> {
    for (const pid of this.#source.pids()) await this.#track(pid);
    const unread: PageRun[] = [];
    const tasks = await this.#ask();
    const counts = { pageCount: 0, writtenCount: 0 };
    this.counts.push(counts);
    const sending = new Set<Promise<void>>();
    const failures: unknown[] = [];
    for await (const read of this.#readers.read(tasks)) {
      if (read.kind === "lost") this.#lose(read.task.pid); // it has ended: the next of that id is another one
      else {
        const sent = this.#send(read, sink, unread)
          .then((pageCount) => void (counts.pageCount += pageCount))
          .catch((error: unknown) => void failures.push(error))
          .finally(() => {
            read[Symbol.dispose]();
            sending.delete(sent);
          });
        sending.add(sent);
      }
      if (failures.length > 0) break;
    }
    await Promise.all(sending);
    if (failures.length > 0) throw failures[0];
    for (const run of unread) await sink.send(encodeMessage({ kind: "hole", run }));
  }

  /** Sends what was read, and notes what could not be. Returns how many pages were sent. */
  async #send({ task: { pid, process }, runs }: ReadChunk, sink: RoundSink, unread: PageRun[]): Promise<number> {
    const tracker = this.#tasks.get(pid)?.tracker;
    if (tracker === undefined) return 0;
    const content: ReadContent[] = [];
    for (const run of runs) {
      if (run.kind === "unreadable") unread.push({ process, page: run.page, pageCount: run.pageCount });
      else {
        tracker.copied(run.page * PAGE_BYTES, run.bytes);
        content.push(run);
      }
    }
    let next = 0;
    await sink.sendPages(
      content.map(({ page, pageCount }) => ({ process, page, pageCount })),
      ({ page }, into) => {
        while ((content[next]?.page ?? Infinity) + (content[next]?.pageCount ?? 0) <= page) next += 1;
        const run = content[next];
        if (run === undefined) return 0;
        const from = (page - run.page) * PAGE_BYTES;
        into.set(run.bytes.subarray(from, from + into.length));
        return into.length / PAGE_BYTES;
      },
    );
    return pageCountOf(content);
  }

  /** What was written since the last round. */
  async #ask(): Promise<ReadTask[]> {
    await using _standing = await this.#source.hold();
    const all: ReadTask[] = [];
    for (const [pid, task] of this.#tasks) {
      if (task === undefined) continue;
      try {
        if (hasUnseenWriters(pid)) {
          this.#unseenCount += 1;
          this.#lose(pid);
        } else all.push({ pid, process: task.process, ranges: pagesOf(task.tracker.written()) });
      } catch {
        this.#lose(pid); // it has ended, or runs another program that can't be tracked
      }
    }
    this.#wrote(all.map(({ ranges }) => ranges));
    return all;
  }

  /** What was written since the last round began. */
  #wrote(written: readonly (readonly PageRange[])[]): void {
    const last = this.counts.at(-1);
    if (last !== undefined) last.writtenCount = pageCountOf(written.flat());
  }

  /** All that was written since the last round, and whatever else was not copied; nothing of processes that are not tracked. */
  told(tasks: ReadonlyMap<number, number>): Map<number, readonly PageRange[]> {
    const all = new Map<number, readonly PageRange[]>();
    for (const [process, pid] of tasks) {
      const task = this.#tasks.get(pid);
      if (task?.process !== process) continue;
      try {
        all.set(process, pagesOf(task.tracker.writtenByNow()));
      } catch {
        this.#lose(pid);
      }
    }
    this.#wrote([...all.values()]);
    return all;
  }

  /** Tracks a task from now on, if it can be, and the program that it runs by now. One that could not be is not tried again. */
  async #track(pid: number): Promise<void> {
    if (this.#tasks.has(pid)) return await this.#tasks.get(pid)?.tracker.follow();
    let task: TrackedTask | undefined;
    try {
      task = { process: processIn(pid), tracker: await this.#begin(pid) };
    } catch {
      // It has ended, is traced, or the kernel can't do this.
    }
    this.#tasks.set(pid, task);
  }

  /** Nothing of its memory is copied ahead, and what was is not to be used. */
  #lose(pid: number): void {
    this.#tasks.get(pid)?.tracker[Symbol.dispose]();
    this.#tasks.set(pid, undefined);
  }

  /** Ends the tracking: nothing is left in the tasks. */
  [Symbol.dispose](): void {
    for (const task of this.#tasks.values()) task?.tracker[Symbol.dispose]();
    this.#tasks.clear();
  }
}
