/**
 * The proof that pages are right: digests of what the tasks on the target were given, compared with the pages of the frozen tasks.
 *
 * A digest is the first 8 bytes of a page's SHA-256. That takes 3.1 us a page where the processor has instructions for it; Node's CRC-32
 * would take 1.1 and be right but for one page in four billion, which is not enough for who looks for a page in a million that is wrong.
 *
 * Some bytes of a page may be the kernel's (`KernelAreas`): they are left out, as if they were zeros.
 */
import { hash } from "node:crypto";
import { DmigrateError } from "../core/errors.ts";
import type { PageVerification } from "../core/migration.ts";
import type { AddressRange } from "../kernel/pagemap.ts";
import { PAGE_BYTES, type PageRun } from "./page-protocol.ts";
import { PageRanges, type PageRange } from "./page-ranges.ts";

const DIGEST_BYTES = 8;
const ZEROS = Buffer.alloc(PAGE_BYTES);
/** Of a page that no task was given: they gave it back before it was due. */
const NOT_GIVEN = Buffer.alloc(DIGEST_BYTES);
/** Of a page that was given to several tasks, and not the same to all: no page has it. */
const CONTRADICTORY = Buffer.alloc(DIGEST_BYTES, 0xff);
/** So many pages are read at once. */
const READ_PAGES_MAX = 128;
/** So many pages have their digests in one run. */
const RUN_PAGES_MAX = 1024;
/** So many runs of pages that differ are kept. */
const DIFFERENT_RUNS_MAX = 8;

/** Successive pages of one process, and a digest of each. */
export interface DigestedRun {
  readonly process: number;
  readonly page: number;
  readonly digests: Uint8Array;
}

/** Bytes that the kernel writes by itself, as it sees fit, each area within a page; by the ids of processes inside the container. */
export type KernelAreas = ReadonlyMap<number, readonly AddressRange[]>;

/** The lazy pages of one process, and how their digests are made. */
class DigestedPages {
  readonly ranges: PageRanges;
  /** By the index of their page. */
  readonly #kernels = new Map<number, { readonly from: number; readonly to: number }[]>();

  constructor(ranges: readonly PageRange[], areas: readonly AddressRange[]) {
    this.ranges = new PageRanges(ranges);
    for (const { start, end } of areas) {
      const index = this.ranges.indexOf(Math.floor(start / PAGE_BYTES), 1);
      if (index === undefined) continue;
      const from = start % PAGE_BYTES;
      this.#kernels.set(index, [...(this.#kernels.get(index) ?? []), { from, to: from + end - start }]);
    }
  }

  putDigest(index: number, page: Uint8Array, into: Buffer, at: number): void {
    const kernels = this.#kernels.get(index);
    const digested = kernels === undefined ? page : Buffer.from(page);
    for (const { from, to } of kernels ?? []) digested.fill(0, from, to);
    into.write(hash("sha256", digested, "binary"), at, DIGEST_BYTES, "latin1");
  }
}

function isAt(digest: Uint8Array, among: Buffer, at: number): boolean {
  return among.compare(digest, 0, DIGEST_BYTES, at, at + DIGEST_BYTES) === 0;
}

/** On the target: what the tasks were given. 8 bytes a page. */
export class GivenPages {
  readonly #processes: ReadonlyMap<number, { readonly pages: DigestedPages; readonly digests: Buffer }>;
  readonly #digest = Buffer.alloc(DIGEST_BYTES);

  /** @param processes the lazy ranges of each process, in ascending order */
  constructor(processes: ReadonlyMap<number, readonly PageRange[]>, areas: KernelAreas) {
    const kept = [...processes].map(([process, ranges]) => {
      const pages = new DigestedPages(ranges, areas.get(process) ?? []);
      return [process, { pages, digests: Buffer.alloc(pages.ranges.pageCount * DIGEST_BYTES) }] as const;
    });
    this.#processes = new Map(kept);
  }

  /**
   * A task was given these pages of a process.
   * @param index of the first, among the lazy ones
   * @param bytes of all of them; undefined if they are zeros
   */
  note(process: number, index: number, pageCount: number, bytes: Uint8Array | undefined): void {
    const kept = this.#processes.get(process);
    if (kept === undefined) throw new RangeError(`Process ${process} has no lazy pages`);
    const { pages, digests } = kept;
    for (let nth = 0; nth < pageCount; nth++) {
      const at = (index + nth) * DIGEST_BYTES;
      pages.putDigest(index + nth, bytes?.subarray(nth * PAGE_BYTES, (nth + 1) * PAGE_BYTES) ?? ZEROS, this.#digest, 0);
      const isSame = isAt(NOT_GIVEN, digests, at) || isAt(this.#digest, digests, at);
      (isSame ? this.#digest : CONTRADICTORY).copy(digests, at);
    }
  }

  /** All lazy pages, in the order of their processes and addresses. */
  *runs(): Generator<DigestedRun, void> {
    for (const [process, { pages, digests }] of this.#processes) {
      for (const { page, index, pageCount } of pages.ranges.all) {
        for (let done = 0; done < pageCount;) {
          const count = Math.min(RUN_PAGES_MAX, pageCount - done);
          const at = (index + done) * DIGEST_BYTES;
          yield { process, page: page + done, digests: digests.subarray(at, at + count * DIGEST_BYTES) };
          done += count;
        }
      }
    }
  }
}

/** On the source: compares what the target says with what there is. */
export class PageComparison {
  readonly #processes: ReadonlyMap<number, { readonly pages: DigestedPages; comparedCount: number }>;
  readonly #read: (run: PageRun, into: Uint8Array) => void;
  readonly #bytes = Buffer.allocUnsafeSlow(READ_PAGES_MAX * PAGE_BYTES);
  readonly #digest = Buffer.alloc(DIGEST_BYTES);
  readonly #counts = { same: 0, different: 0, released: 0 };
  readonly #different: PageRun[] = [];

  /**
   * @param processes the lazy ranges of each process, in ascending order
   * @param read puts the bytes of pages there
   */
  constructor(processes: ReadonlyMap<number, readonly PageRange[]>, areas: KernelAreas, read: (run: PageRun, into: Uint8Array) => void) {
    const compared = [...processes].map(([process, ranges]) => {
      const pages = new DigestedPages(ranges, areas.get(process) ?? []);
      return [process, { pages, comparedCount: 0 }] as const;
    });
    this.#processes = new Map(compared);
    this.#read = read;
  }

  /**
   * Takes the next pages: of each process one after the other, in the order of their addresses, all of one range. Throws PROTOCOL if they
   * are others.
   */
  take({ process, page, digests }: DigestedRun): void {
    const known = this.#processes.get(process);
    const pageCount = digests.length / DIGEST_BYTES;
    const isCount = Number.isInteger(pageCount) && pageCount > 0 && pageCount <= RUN_PAGES_MAX;
    if (known === undefined || !isCount || known.pages.ranges.indexOf(page, pageCount) !== known.comparedCount)
      throw new DmigrateError(
        "PROTOCOL",
        `The target sent digests of ${pageCount} pages from page ${page} of process ${process} on, which are not due; ` +
          "update both agents to the same release",
      );
    for (let done = 0; done < pageCount; done += READ_PAGES_MAX) {
      const run = { process, page: page + done, pageCount: Math.min(READ_PAGES_MAX, pageCount - done) };
      this.#compare(run, known.pages, known.comparedCount, digests.subarray(done * DIGEST_BYTES));
      known.comparedCount += run.pageCount;
    }
  }

  #compare(run: PageRun, pages: DigestedPages, index: number, digests: Uint8Array): void {
    const bytes = this.#bytes.subarray(0, run.pageCount * PAGE_BYTES);
    this.#read(run, bytes);
    const told = Buffer.from(digests.buffer, digests.byteOffset, digests.byteLength);
    for (let nth = 0; nth < run.pageCount; nth++) {
      if (isAt(NOT_GIVEN, told, nth * DIGEST_BYTES)) {
        this.#counts.released += 1;
        continue;
      }
      pages.putDigest(index + nth, bytes.subarray(nth * PAGE_BYTES, (nth + 1) * PAGE_BYTES), this.#digest, 0);
      if (isAt(this.#digest, told, nth * DIGEST_BYTES)) this.#counts.same += 1;
      else this.#differs(run.process, run.page + nth);
    }
  }

  #differs(process: number, page: number): void {
    this.#counts.different += 1;
    const last = this.#different.at(-1);
    if (last?.process === process && last.page + last.pageCount === page)
      this.#different[this.#different.length - 1] = { ...last, pageCount: last.pageCount + 1 };
    else if (this.#different.length < DIFFERENT_RUNS_MAX) this.#different.push({ process, page, pageCount: 1 });
  }

  /** All pages have been taken. Throws PROTOCOL if they have not. */
  end(): PageVerification {
    for (const [process, { pages, comparedCount }] of this.#processes)
      if (comparedCount !== pages.ranges.pageCount)
        throw new DmigrateError(
          "PROTOCOL",
          `The target sent digests of ${comparedCount} of the ${pages.ranges.pageCount} lazy pages of process ${process}; ` +
            "update both agents to the same release",
        );
    return this.#counts;
  }

  /** Where pages differ, the first few places. */
  get different(): readonly PageRun[] {
    return this.#different;
  }
}
