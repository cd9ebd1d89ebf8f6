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
import { punchHole } from "../kernel/sparse.ts";
import { MessageReader, PAGE_BYTES, type PageRun } from "./page-protocol.ts";
import type { PageRange } from "./page-ranges.ts";
import { PageSet } from "./page-set.ts";

/** Addresses of user space end here, on every architecture with pages of 4 KiB and four levels of tables. */
const ADDRESS_MAX = 2 ** 47;
/** So many processes have a file; an agent has only so many descriptors. */
const SPACES_MAX = 4096;

interface Space {
  readonly fd: number;
  readonly pages: PageSet;
}

export class PageStore implements Disposable {
  readonly #pageCountMax: number;
  readonly #beside: readonly PageStore[];
  readonly #fileName: string;
  #hasRefused = false;
  #isClosed = false;
  /** By process id inside the container. */
  readonly #spaces = new Map<number, Space>();

  /**
   * @param pageCountMax what is copied beyond is not kept: it will come when it is needed
   * @param beside stores whose pages count, too
   * @param fileName what its files are called
   */
  constructor(pageCountMax: number, beside: readonly PageStore[] = [], fileName = "dmigrate pages") {
    this.#pageCountMax = pageCountMax;
    this.#beside = beside;
    this.#fileName = fileName;
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
   * Takes pages of a round. Throws PROTOCOL if no process can have them, or if no round is to come.
   * @param bytes undefined for such as are zeros
   */
  take(run: PageRun, bytes: Uint8Array | undefined): void {
    this.#assertExpected(run);
    this.#spaces.get(run.process)?.pages.delete(run); // until it is here again
    const space = this.#hasRoomFor(run) ? (this.#spaces.get(run.process) ?? this.#newSpace(run.process)) : undefined;
    if (space === undefined) {
      this.#hasRefused = true;
      this.free(run);
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
        this.#assertExpected(message.run);
        this.free(message.run);
      }
    }
  }

  /** No round is to come any more: what is here stays as it is until it is taken. */
  close(): void {
    this.#isClosed = true;
  }

  /**
   * What the source says in the freeze, after the last round: which pages were written since they were copied. Those are not here any more,
   * nor is any page of a process of which it says nothing.
   */
  settle(written: ReadonlyMap<number, readonly PageRange[]>): void {
    this.close();
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

  /** Whether all of these pages are here. */
  hasAll(process: number, { page, pageCount }: PageRange): boolean {
    const [run] = this.within(process, { page, pageCount });
    return run?.page === page && run.pageCount === pageCount;
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

  /** They are not wanted any more: gives their memory back. */
  free({ process, page, pageCount }: PageRun): void {
    const space = this.#spaces.get(process);
    if (space === undefined) return;
    space.pages.delete({ page, pageCount });
    punchHole(space.fd, page * PAGE_BYTES, pageCount * PAGE_BYTES);
  }

  /**
   * The file itself that has the first pages of a process, of that size: zeros where no page is here. More pages may still come into it;
   * when they have, this is called again. Throws KERNEL.
   * @returns its descriptor, which stays the store's
   */
  fileOf(process: number, pageCount: number): number {
    const space = this.#spaces.get(process) ?? this.#newSpace(process);
    ftruncateSync(space.fd, pageCount * PAGE_BYTES);
    let next = 0;
    for (const run of [...space.pages.within({ page: 0, pageCount }), { page: pageCount, pageCount: 0 }]) {
      if (run.page > next) punchHole(space.fd, next * PAGE_BYTES, (run.page - next) * PAGE_BYTES);
      next = run.page + run.pageCount;
    }
    return space.fd;
  }

  #assertExpected({ page, pageCount }: PageRun): void {
    if (this.#isClosed || (page + pageCount) * PAGE_BYTES > ADDRESS_MAX) throw unexpected(`page ${page}`);
  }

  #hasRoomFor({ process, pageCount }: PageRun): boolean {
    if (!this.#spaces.has(process) && this.#spaces.size === SPACES_MAX) return false;
    return [this, ...this.#beside].reduce((sum, store) => sum + store.pageCount, pageCount) <= this.#pageCountMax;
  }

  #newSpace(process: number): Space {
    const space = { fd: makeMemoryFile(this.#fileName), pages: new PageSet() };
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

function writeAll(fd: number, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done, bytes.length - done, position + done);
}

function unexpected(what: string): DmigrateError {
  return new DmigrateError("PROTOCOL", `A round of memory holds ${what} where it must not; update both agents to the same release`);
}
