/**
 * Reads the memory of running tasks by several readers at once, each on a thread of its own, so that the event loop is left to what sends
 * the pages. How many, and how much at a time, the plan says whenever a reader begins (src/core/dump-plan.ts).
 *
 * A reader takes its next chunk from the task that has most left: several tasks are read in turn, and one large task by all readers. A
 * chunk may have many runs of pages, which one call of the kernel reads. There are two buffers for each reader: whoever keeps the
 * chunks that it was given for long keeps the readers waiting.
 */
import { BUFFERS_PER_WORKER, longest, type DumpPlan } from "../core/dump-plan.ts";
import { PIECES_MAX, readMemory, readMemoryApart } from "../kernel/process-memory.ts";
import { PAGE_BYTES } from "./page-protocol.ts";
import type { PageRange } from "./page-ranges.ts";

/** A task, and which of its pages are to be read. */
export interface ReadTask {
  /** Its process id on this host. */
  readonly pid: number;
  /** Its process id inside the container. */
  readonly process: number;
  /** Not empty ones. */
  readonly ranges: readonly PageRange[];
}

/** Pages that lie one behind the other in a task. */
export interface ReadContent extends PageRange {
  readonly kind: "content";
  readonly bytes: Uint8Array;
}

/** Pages that can't be read: what was mapped there is gone, or is not accessible. */
interface Unreadable extends PageRange {
  readonly kind: "unreadable";
}

export type ReadRun = ReadContent | Unreadable;

/** How many read at once, and how much at a time. */
export type ReadPlan = () => Pick<DumpPlan, "workers" | "chunkPages">;

/** What a reader has read; `runs` and their bytes are valid until it is disposed of. */
export interface ReadChunk extends Disposable {
  readonly kind: "pages";
  readonly task: ReadTask;
  /** In the order in which they were asked for. */
  readonly runs: readonly ReadRun[];
}

/** A task that could not be read to its end: it has ended. Nothing more comes of it. */
export interface LostTask {
  readonly kind: "lost";
  readonly task: ReadTask;
  readonly error: unknown;
}

/** Some memory of a task. */
interface Piece {
  readonly address: number;
  readonly byteCount: number;
}

/** What is left of a task. */
interface Cursor {
  readonly task: ReadTask;
  byteCount: number;
  /** The range that is next, and how many of its pages have been taken. */
  rangeIndex: number;
  takenPages: number;
  isLost: boolean;
}

export class PageReaders {
  readonly #plan: ReadPlan;
  /** Buffers that nobody uses. */
  readonly #free: Uint8Array[] = [];
  /** Wakes who waits for a chunk, or for a buffer. */
  #changed = Promise.withResolvers<void>();
  /** Buffers that are read into, wait, or have been given away. */
  #bufferCount = 0;
  #bestRate = 0;

  constructor(plan: ReadPlan) {
    this.#plan = plan;
  }

  /** What one reader reads, bytes a second: the best of all chunks, since others were held up by what else there was to do. */
  get readerRate(): number | undefined {
    return this.#bestRate > 0 ? this.#bestRate : undefined;
  }

  /**
   * Reads all of them; gives what was read in the order in which that was done. Each chunk must be disposed of, sooner or later, for this
   * to go on. When it returns, or was left, nothing is read any more. One at a time.
   */
  async *read(tasks: Iterable<ReadTask>): AsyncGenerator<ReadChunk | LostTask, void> {
    const cursors = new Set(Array.from(tasks, cursorOf).filter(({ byteCount }) => byteCount > 0));
    const reading = new Set<Promise<void>>();
    const done: (ReadChunk | LostTask)[] = [];
    try {
      for (;;) {
        for (let next = this.#next(cursors, reading.size); next !== undefined; next = this.#next(cursors, reading.size)) {
          const { cursor, buffer } = next;
          const ranges = take(cursor, buffer.length / PAGE_BYTES);
          if (cursor.byteCount === 0) cursors.delete(cursor);
          const read = this.#readChunk(cursor.task, ranges, buffer)
            .then((chunk) => void (cursor.isLost ? chunk[Symbol.dispose]() : done.push(chunk)))
            .catch((error: unknown) => {
              this.#giveBack(buffer);
              if (!cursor.isLost) done.push({ kind: "lost", task: cursor.task, error });
              cursor.isLost = true;
              cursors.delete(cursor);
            })
            .finally(() => {
              reading.delete(read);
              this.#changed.resolve();
            });
          reading.add(read);
        }
        const first = done.shift();
        if (first !== undefined) yield first;
        else if (cursors.size === 0 && reading.size === 0) return;
        else await this.#change();
      }
    } finally {
      await Promise.all(reading);
      for (const each of done) if (each.kind === "pages") each[Symbol.dispose]();
    }
  }

  /** What to read next, and into what, if there is a reader, a buffer and something to read. */
  #next(cursors: ReadonlySet<Cursor>, readingCount: number): { readonly cursor: Cursor; readonly buffer: Uint8Array } | undefined {
    const { workers, chunkPages } = this.#plan();
    const cursor = longest(cursors);
    if (cursor === undefined || readingCount >= workers || this.#bufferCount >= workers * BUFFERS_PER_WORKER) return undefined;
    this.#bufferCount += 1;
    const free = this.#free.pop();
    const byteCount = chunkPages * PAGE_BYTES;
    return { cursor, buffer: free?.length === byteCount ? free : Buffer.allocUnsafeSlow(byteCount) };
  }

  /** @param ranges as many pages as fit into the buffer, or fewer */
  async #readChunk(task: ReadTask, ranges: readonly PageRange[], buffer: Uint8Array): Promise<ReadChunk> {
    const pageCount = ranges.reduce((sum, range) => sum + range.pageCount, 0);
    const unreadable = new Set<number>();
    const beganAt = performance.now();
    for (let at = 0; at < pageCount;) {
      const into = buffer.subarray(at * PAGE_BYTES, pageCount * PAGE_BYTES);
      at += Math.floor((await readMemoryApart(task.pid, piecesFrom(ranges, at), into)) / PAGE_BYTES);
      // What can't be read is seldom a page alone, and to find that out costs less than to have another thread do it.
      for (; at < pageCount && !isReadable(task.pid, piecesFrom(ranges, at), buffer.subarray(at * PAGE_BYTES)); at++) unreadable.add(at);
    }
    const seconds = (performance.now() - beganAt) / 1000;
    if (unreadable.size === 0) this.#bestRate = Math.max(this.#bestRate, (pageCount * PAGE_BYTES) / seconds);
    return { kind: "pages", task, runs: runsOf(ranges, buffer, unreadable), [Symbol.dispose]: () => this.#giveBack(buffer) };
  }

  async #change(): Promise<void> {
    await this.#changed.promise;
    this.#changed = Promise.withResolvers();
  }

  #giveBack(buffer: Uint8Array): void {
    this.#bufferCount -= 1;
    this.#free.push(buffer);
    this.#changed.resolve();
  }
}

/** Whether the first page of these can be read. */
function isReadable(pid: number, [first]: readonly Piece[], into: Uint8Array): boolean {
  return first !== undefined && readMemory(pid, first.address, into.subarray(0, PAGE_BYTES)) === PAGE_BYTES;
}

function cursorOf(task: ReadTask): Cursor {
  const pageCount = task.ranges.reduce((sum, range) => sum + range.pageCount, 0);
  return { task, byteCount: pageCount * PAGE_BYTES, rangeIndex: 0, takenPages: 0, isLost: false };
}

/** The next pages that one call can read. */
function take(cursor: Cursor, pagesMax: number): PageRange[] {
  const taken: PageRange[] = [];
  let left = pagesMax;
  for (;;) {
    const range = cursor.task.ranges[cursor.rangeIndex];
    if (range === undefined || left === 0 || taken.length === PIECES_MAX) return taken;
    const pageCount = Math.min(left, range.pageCount - cursor.takenPages);
    taken.push({ page: range.page + cursor.takenPages, pageCount });
    left -= pageCount;
    cursor.byteCount -= pageCount * PAGE_BYTES;
    cursor.takenPages += pageCount;
    if (cursor.takenPages < range.pageCount) continue;
    cursor.rangeIndex += 1;
    cursor.takenPages = 0;
  }
}

/** The pages behind the first `skippedPages` of all. */
function piecesFrom(ranges: readonly PageRange[], skippedPages: number): Piece[] {
  let skipped = skippedPages;
  return ranges.flatMap(({ page, pageCount }) => {
    const skip = Math.min(skipped, pageCount);
    skipped -= skip;
    return skip === pageCount ? [] : [{ address: (page + skip) * PAGE_BYTES, byteCount: (pageCount - skip) * PAGE_BYTES }];
  });
}

/** @param unreadable places in the buffer */
function runsOf(ranges: readonly PageRange[], buffer: Uint8Array, unreadable: ReadonlySet<number>): ReadRun[] {
  const runs: ReadRun[] = [];
  let place = 0;
  for (const { page, pageCount } of ranges) {
    for (let from = 0; from < pageCount;) {
      const isUnreadable = unreadable.has(place);
      let count = 1;
      while (from + count < pageCount && unreadable.has(place + count) === isUnreadable) count += 1;
      const run = { page: page + from, pageCount: count };
      const bytes = buffer.subarray(place * PAGE_BYTES, (place + count) * PAGE_BYTES);
      runs.push(isUnreadable ? { ...run, kind: "unreadable" } : { ...run, kind: "content", bytes });
      from += count;
      place += count;
    }
  }
  return runs;
}
