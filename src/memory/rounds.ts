/**
 * Copies the memory of running tasks ahead, in rounds: the first has all of it, each later one what was written since the one before.
 * What was written after the last round is told in the freeze.
 *
 * What can't be tracked or read is not copied ahead: it stays with the source until it is asked for. That goes for all memory of a process
 * that does direct I/O: what a device writes after a page was told is not told again (docs/decisions/0015-warm.md).
 */
import { setImmediate as letOthersRun } from "node:timers/promises";
import { usesDirectIo } from "../kernel/direct-io.ts";
import { readMemory } from "../kernel/process-memory.ts";
import { processIn } from "../kernel/tasks.ts";
import type { AddressRange } from "../kernel/pagemap.ts";
import { encodeMessage, HEADER_BYTES, PAGE_BYTES, type PageRun } from "./page-protocol.ts";
import type { PageRange } from "./page-ranges.ts";
import type { WrittenPages } from "./tracking/tracker.ts";
import { WriteProtectionTracker } from "./tracking/write-protection-tracker.ts";

/** So many pages are read at once. */
const READ_PAGES_MAX = 128;

/** Why a process is left out. */
class DirectIo extends Error {}

/** What is under way when pages are told may be written by a device afterwards: so this is asked before and after. */
function assertNoDirectIo(pid: number): void {
  if (usesDirectIo(pid)) throw new DirectIo();
}

/** A task whose writes are tracked. */
interface TrackedTask {
  /** Its process id inside the container. */
  readonly process: number;
  readonly tracker: WriteProtectionTracker;
}

export class MemoryRounds implements WrittenPages, Disposable {
  readonly #pids: () => readonly number[];
  /** By process id on this host; undefined for a task that can't be tracked. */
  readonly #tasks = new Map<number, TrackedTask | undefined>();
  #directIoCount = 0;
  readonly #buffer = Buffer.allocUnsafeSlow(HEADER_BYTES + READ_PAGES_MAX * PAGE_BYTES);

  /** How many processes were left out because they do direct I/O. */
  get directIoCount(): number {
    return this.#directIoCount;
  }

  /** @param pids tells the process ids of the tasks on this host, as they are at the time */
  constructor(pids: () => readonly number[]) {
    this.#pids = pids;
  }

  /** The bytes of the next round, as a `PageStore` takes them; each chunk is valid until the next one is asked for. The tasks run. */
  async *round(): AsyncGenerator<Uint8Array, void> {
    for (const pid of this.#pids()) {
      const task = await this.#track(pid);
      if (task === undefined) continue;
      try {
        assertNoDirectIo(pid);
        const written = await task.tracker.written();
        assertNoDirectIo(pid);
        for (const range of written) yield* this.#copy(pid, task.process, range);
      } catch (error) {
        this.#lose(pid, error); // it may have ended, or run another program that can't be tracked
      }
    }
  }

  /** All that was written since the last round, and whatever else was not copied; nothing of processes that are not tracked. */
  told(tasks: ReadonlyMap<number, number>): Map<number, readonly PageRange[]> {
    const all = new Map<number, readonly PageRange[]>();
    for (const [process, pid] of tasks) {
      const task = this.#tasks.get(pid);
      if (task?.process !== process) continue;
      try {
        const ranges = task.tracker.writtenByNow();
        all.set(
          process,
          ranges.map(({ start, end }) => ({ page: start / PAGE_BYTES, pageCount: (end - start) / PAGE_BYTES })),
        );
      } catch (error) {
        this.#lose(pid, error);
      }
    }
    return all;
  }

  /** The task, tracked from now on if it can be. One that could not is not tried again. */
  async #track(pid: number): Promise<TrackedTask | undefined> {
    if (this.#tasks.has(pid)) return this.#tasks.get(pid);
    let task: TrackedTask | undefined;
    try {
      task = { process: processIn(pid), tracker: await WriteProtectionTracker.begin(pid) };
    } catch (error) {
      this.#lose(pid, error); // it may have ended, be traced, or the kernel can't do this
    }
    this.#tasks.set(pid, task);
    return task;
  }

  /** The process's memory, or what of it is copied already, is not to be used. */
  #lose(pid: number, reason: unknown): void {
    if (reason instanceof DirectIo) this.#directIoCount += 1;
    this.#tasks.get(pid)?.tracker[Symbol.dispose]();
    this.#tasks.set(pid, undefined);
  }

  async *#copy(pid: number, process: number, { start, end }: AddressRange): AsyncGenerator<Uint8Array, void> {
    for (let page = start / PAGE_BYTES; page < end / PAGE_BYTES;) {
      const pageCount = Math.min(READ_PAGES_MAX, end / PAGE_BYTES - page);
      yield this.#read(pid, { process, page, pageCount });
      page += pageCount;
      await letOthersRun();
    }
  }

  /** The messages for some pages: those that can be read, and that the others are not to be kept. */
  #read(pid: number, run: PageRun): Uint8Array {
    const bytes = this.#buffer.subarray(HEADER_BYTES, HEADER_BYTES + run.pageCount * PAGE_BYTES);
    const pageCount = Math.floor(readMemory(pid, run.page * PAGE_BYTES, bytes) / PAGE_BYTES);
    const missing = { ...run, page: run.page + pageCount, pageCount: run.pageCount - pageCount };
    if (pageCount === 0) return encodeMessage({ kind: "hole", run: missing });
    encodeMessage({ kind: "pages", run: { ...run, pageCount } }).copy(this.#buffer);
    const read = this.#buffer.subarray(0, HEADER_BYTES + pageCount * PAGE_BYTES);
    return missing.pageCount === 0 ? read : Buffer.concat([read, encodeMessage({ kind: "hole", run: missing })]);
  }

  /** Ends the tracking: nothing is left in the tasks. */
  [Symbol.dispose](): void {
    for (const task of this.#tasks.values()) task?.tracker[Symbol.dispose]();
    this.#tasks.clear();
  }
}
