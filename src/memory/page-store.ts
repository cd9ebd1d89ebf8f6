/**
 * Pages that were copied ahead, on the target, until their tasks are there to take them.
 *
 * Each process has a file in memory, each page at the offset that is its address: it takes as much memory as it holds pages, and what has
 * been taken is given back at once. So a container and its store take together little more than the container.
 *
 * INVARIANT: a page is here only as it was copied last. While it is written anew it is not here.
 */
import { closeSync, ftruncateSync, readSync, writeSync } from "node:fs";
import { DmigrateError } from "../core/errors.ts";
import { makeMemoryFile } from "../kernel/memory-file.ts";
import { copyRange, dataExtents, punchHole } from "../kernel/sparse.ts";
import { MessageReader, PAGE_BYTES, type PageRun } from "./page-protocol.ts";
import type { PageRange } from "./page-ranges.ts";
import { PageSet } from "./page-set.ts";

/** Addresses of user space end here, on every architecture with pages of 4 KiB and four levels of tables. */
const ADDRESS_MAX = 2 ** 47;
/** So many pages are moved into a file at once, by each of so many threads. */
const MOVED_PAGES_MAX = 512;
const MOVERS = 2;

interface Space {
  readonly fd: number;
  readonly pages: PageSet;
}

export class PageStore implements Disposable {
  readonly #pageCountMax: number;
  readonly #beside: PageStore | undefined;
  #hasRefused = false;
  /** By process id inside the container. */
  readonly #spaces = new Map<number, Space>();

  /**
   * @param pageCountMax what is copied beyond is not kept: it will come when it is needed
   * @param beside a store whose pages count, too
   */
  constructor(pageCountMax: number, beside?: PageStore) {
    this.#pageCountMax = pageCountMax;
    this.#beside = beside;
  }

  /** How many pages are here. */
  get pageCount(): number {
    return [...this.#spaces.values()].reduce((sum, { pages }) => sum + pages.pageCount, 0);
  }

  /** Whether something was not kept. */
  get hasRefused(): boolean {
    return this.#hasRefused;
  }

  /**
   * Takes pages of a round. Throws PROTOCOL if no process can have them.
   * @param bytes undefined for such as are zeros
   */
  take(run: PageRun, bytes: Uint8Array | undefined): void {
    const space = this.#forget(run);
    if (this.pageCount + (this.#beside?.pageCount ?? 0) + run.pageCount > this.#pageCountMax) {
      this.#hasRefused = true;
      return;
    }
    if (bytes === undefined) punchHole(space.fd, run.page * PAGE_BYTES, run.pageCount * PAGE_BYTES);
    else writeAll(space.fd, bytes, run.page * PAGE_BYTES);
    space.pages.add(run);
  }

  /**
   * Takes what is said at the end of a round: messages `hole`, for pages that are not to be here any more. Throws PROTOCOL if there is
   * something else.
   */
  async takeHoles(chunks: AsyncIterable<Uint8Array>): Promise<void> {
    const messages = new MessageReader();
    for await (const bytes of chunks) {
      const chunk = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      for (let at = 0; at < chunk.length;) {
        const { next, message } = messages.read(chunk, at);
        at = next;
        if (message === undefined) continue;
        if (message.kind !== "hole") throw unexpected(message.kind);
        this.#forget(message.run);
      }
    }
  }

  /**
   * What the source says in the freeze: which pages were written since they were copied. Those are not here any more, nor is any page of
   * a process of which it says nothing.
   */
  settle(written: ReadonlyMap<number, readonly PageRange[]>): void {
    for (const [process, space] of this.#spaces) {
      const ranges = written.get(process);
      if (ranges === undefined) this.#drop(process, space);
      else for (const { page, pageCount } of ranges) space.pages.delete({ page, pageCount });
    }
  }

  /** Those of the pages of a process that are here, as runs. */
  within(process: number, range: PageRange): Iterable<PageRange> {
    return this.#spaces.get(process)?.pages.within(range) ?? [];
  }

  has(process: number, page: number): boolean {
    return this.#spaces.get(process)?.pages.has(page) === true;
  }

  /** Reads pages that are here. */
  read({ process, page }: PageRun, into: Uint8Array): void {
    const space = this.#spaces.get(process);
    if (space === undefined || readSync(space.fd, into, 0, into.length, page * PAGE_BYTES) !== into.length)
      throw new DmigrateError("INTERNAL", `Page ${page} of process ${process} is not in the store; please report this as a bug`);
  }

  /** They have been taken: gives their memory back. */
  free({ process, page, pageCount }: PageRun): void {
    const space = this.#spaces.get(process);
    if (space === undefined) return;
    space.pages.delete({ page, pageCount });
    punchHole(space.fd, page * PAGE_BYTES, pageCount * PAGE_BYTES);
  }

  /**
   * Moves the first pages of a process into an empty file, each to the offset that is its address; those of zeros are there as they are.
   * Throws KERNEL.
   */
  async moveTo(process: number, file: number, pageCount: number): Promise<void> {
    const space = this.#spaces.get(process);
    if (space === undefined) return;
    const pieces = piecesOf(space, pageCount);
    const move = async (): Promise<void> => {
      for (let piece = pieces.pop(); piece !== undefined; piece = pieces.pop()) {
        await copyRange(space.fd, file, piece.page * PAGE_BYTES, piece.pageCount * PAGE_BYTES);
        this.free({ process, ...piece });
      }
    };
    await Promise.all(Array.from({ length: MOVERS }, move));
  }

  #forget(run: PageRun): Space {
    if ((run.page + run.pageCount) * PAGE_BYTES > ADDRESS_MAX) throw unexpected(`page ${run.page}`);
    const space = this.#spaces.get(run.process) ?? this.#newSpace(run.process);
    space.pages.delete(run);
    return space;
  }

  #newSpace(process: number): Space {
    const space = { fd: makeMemoryFile(`dmigrate pages of ${process}`), pages: new PageSet() };
    ftruncateSync(space.fd, ADDRESS_MAX);
    this.#spaces.set(process, space);
    return space;
  }

  #drop(process: number, { fd }: Space): void {
    this.#spaces.delete(process);
    closeSync(fd);
  }

  [Symbol.dispose](): void {
    for (const [process, space] of this.#spaces) this.#drop(process, space);
  }
}

/** The first pages that are there and hold something, in pieces that several may move. */
function piecesOf({ fd, pages }: Space, pageCount: number): PageRange[] {
  const pieces: PageRange[] = [];
  for (const { start, end } of dataExtents(fd, pageCount * PAGE_BYTES)) {
    for (const run of pages.within({ page: start / PAGE_BYTES, pageCount: (end - start) / PAGE_BYTES })) {
      for (let page = run.page; page < run.page + run.pageCount; page += MOVED_PAGES_MAX)
        pieces.push({ page, pageCount: Math.min(MOVED_PAGES_MAX, run.page + run.pageCount - page) });
    }
  }
  return pieces;
}

function writeAll(fd: number, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done, bytes.length - done, position + done);
}

function unexpected(what: string): DmigrateError {
  return new DmigrateError("PROTOCOL", `A round of memory holds ${what} where it must not; update both agents to the same release`);
}
