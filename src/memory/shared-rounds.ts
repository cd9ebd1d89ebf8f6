/**
 * Copies shared memory ahead while tasks run, in rounds, and what has changed since in the freeze. What is there is compared by content,
 * chunk by chunk, unless it is known that nobody has written it (tracking/shared-tracker.ts).
 *
 * A chunk is known by its GMAC: one that differs is not missed.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { setImmediate as letOthersRun } from "node:timers/promises";
import { DmigrateError } from "../core/errors.ts";
import type { ReadMappings } from "../kernel/maps.ts";
import { mappedFile, sharedObjectsOf, type SharedObject } from "../kernel/shared-objects.ts";
import { dataExtents } from "../kernel/sparse.ts";
import type { OpenUserfaultfd } from "../kernel/write-protection.ts";
import { Gmac, GMAC_BYTES as DIGEST_BYTES } from "./gmac.ts";
import { PAGE_BYTES, type PageRun } from "./page-protocol.ts";
import type { PageRange } from "./page-ranges.ts";
import type { RoundSink, Tasks } from "./rounds.ts";
import { SharedTracker } from "./tracking/shared-tracker.ts";

/** What is compared as one; a frame may have as many. */
const CHUNK_PAGES = 16;
const CHUNK_BYTES = CHUNK_PAGES * PAGE_BYTES;
/** So many are looked at before others run. */
const TURN_CHUNKS = 16;
/** Memory that holds less is not worth it: CRIU dumps it as quickly. */
const OBJECT_BYTES_MIN = 1 << 20;
/** What is larger, and most of it never touched, is CRIU's, too: there are digests of what is not there. */
const OBJECT_BYTES_MAX = 2 ** 38;
/** Stands for a chunk of zeros, and for one that was not copied. */
const ZEROS_DIGEST = Buffer.alloc(DIGEST_BYTES);
/** Stands for a chunk of which only some pages were copied anew. */
const UNKNOWN_DIGEST = Buffer.alloc(DIGEST_BYTES, 0xff);
/** So many that differ are sent at once. */
const SENT_CHUNKS_MAX = 256;
const ZEROS = Buffer.alloc(CHUNK_BYTES);
const BLOCK_BYTES = 512; // of st_blocks

/** An object that is copied ahead. */
interface Copied {
  /** It stands where that of a process would. */
  readonly number: number;
  readonly fd: number;
  readonly size: number;
  /** Of each chunk, what the target has. */
  readonly digests: Buffer;
  /** Whether the target has had all of it, so that what was written since is all that it lacks. */
  isWhole: boolean;
}

/** What is to be copied: of an object these pages, or whatever differs. */
interface Left {
  readonly copied: Copied;
  readonly pages: readonly PageRange[] | undefined;
}

export class SharedRounds implements Disposable {
  readonly #tasks: Tasks;
  readonly #tracker: SharedTracker;
  readonly #copied = new Map<bigint, Copied>();
  #count = 0;
  readonly #gmac = new Gmac();
  readonly #buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES);

  /** @param open makes a userfaultfd of a task */
  constructor(tasks: Tasks, open?: OpenUserfaultfd) {
    this.#tasks = tasks;
    this.#tracker = new SharedTracker(open);
  }

  /** Sends the next round, a number in place of each process. The tasks run. */
  async round(sink: RoundSink): Promise<void> {
    this.#follow();
    if (this.#copied.size === 0) return;
    await this.#tracker.follow(this.objects().values());
    await this.#send(sink, this.#whatToCopy(this.#copied.keys(), await this.#ask()));
  }

  /** What was written since the last round. */
  async #ask(): Promise<ReadonlyMap<bigint, readonly PageRange[] | undefined>> {
    await using _standing = await this.#tasks.hold();
    return this.#tracker.written(this.objects());
  }

  /** What has been copied and can still be, as it is mapped now. */
  objects(readMappings?: ReadMappings): Map<bigint, SharedObject> {
    return new Map([...sharedObjectsOf(this.#tasks.pids(), readMappings)].filter(([inode]) => this.#copied.has(inode)));
  }

  /** Its number in the rounds, and its size in bytes. Of one that was copied. */
  describe(inode: bigint): { readonly object: number; readonly size: number } {
    const { number: object, size } = this.#of(inode);
    return { object, size };
  }

  /**
   * Looks what is left of these objects: the tasks stand still.
   * @returns what sends it, for the last time
   */
  last(objects: ReadonlyMap<bigint, SharedObject>): (sink: RoundSink) => Promise<void> {
    const left = this.#whatToCopy(objects.keys(), this.#tracker.writtenByNow(objects));
    return (sink) => this.#send(sink, left);
  }

  /** @param written of each object, if it is known */
  #whatToCopy(inodes: Iterable<bigint>, written: ReadonlyMap<bigint, readonly PageRange[] | undefined>): Left[] {
    const left = [...inodes].map((inode) => {
      const copied = this.#of(inode);
      return { copied, pages: copied.isWhole ? written.get(inode) : undefined };
    });
    for (const { copied } of left) copied.isWhole = false; // it will not be told again
    return left;
  }

  async #send(sink: RoundSink, left: readonly Left[]): Promise<void> {
    for (const { copied, pages } of left) {
      if (pages === undefined) await this.#sendDifference(sink, copied);
      else await this.#sendPages(sink, copied, pages);
      copied.isWhole = true;
    }
  }

  #of(inode: bigint): Copied {
    const copied = this.#copied.get(inode);
    if (copied === undefined) throw new DmigrateError("INTERNAL", "Shared memory was not copied ahead; please report this as a bug");
    return copied;
  }

  /** Opens what is new, and closes what is gone or can't be copied any more. */
  #follow(): void {
    const objects = sharedObjectsOf(this.#tasks.pids());
    for (const inode of this.#copied.keys()) if (!objects.has(inode)) this.#lose(inode);
    for (const [inode, { mappings }] of objects) if (!this.#copied.has(inode)) this.#open(inode, mappings[0]);
  }

  #open(inode: bigint, { pid, mapping }: SharedObject["mappings"][0]): void {
    let fd: number;
    try {
      fd = openSync(mappedFile(pid, mapping), "r");
    } catch {
      return; // it has ended, or given it up
    }
    const { ino, size, blocks } = fstatSync(fd);
    const isWorth = blocks * BLOCK_BYTES >= OBJECT_BYTES_MIN && size <= OBJECT_BYTES_MAX;
    if (BigInt(ino) !== inode || size % PAGE_BYTES !== 0 || !isWorth) return closeSync(fd);
    const digests = Buffer.alloc(Math.ceil(size / CHUNK_BYTES) * DIGEST_BYTES);
    this.#copied.set(inode, { number: ++this.#count, fd, size, digests, isWhole: false });
  }

  #lose(inode: bigint): void {
    const copied = this.#copied.get(inode);
    if (copied !== undefined) closeSync(copied.fd);
    this.#copied.delete(inode);
  }

  /** Some pages, whatever is in them. */
  async #sendPages(sink: RoundSink, copied: Copied, ranges: readonly PageRange[]): Promise<void> {
    const runs = ranges.map(({ page, pageCount }) => ({ process: copied.number, page, pageCount }));
    await sink.sendPages(runs, ({ page, pageCount }, into) => {
      for (let chunk = Math.floor(page / CHUNK_PAGES); chunk * CHUNK_PAGES < page + pageCount; chunk++)
        UNKNOWN_DIGEST.copy(digestAt(copied.digests, chunk));
      return read(copied, page, into);
    });
  }

  /** What differs from what was copied, chunk by chunk: a frame has just one, unless somebody cuts it. */
  async #sendDifference(sink: RoundSink, copied: Copied): Promise<void> {
    const { number, fd, size, digests } = copied;
    const hasData = chunksWithData(fd, size);
    let runs: PageRun[] = [];
    const send = async (): Promise<void> => {
      await sink.sendPages(runs, ({ page, pageCount }, into) => {
        const readCount = read(copied, page, into);
        const isWhole = page % CHUNK_PAGES === 0 && (pageCount === CHUNK_PAGES || (page + pageCount) * PAGE_BYTES === size);
        (isWhole ? this.#digest(into) : UNKNOWN_DIGEST).copy(digestAt(digests, Math.floor(page / CHUNK_PAGES)));
        return readCount;
      });
      runs = [];
    };
    for (let chunk = 0; chunk < hasData.length; chunk++) {
      if (hasData[chunk] === 0 && digestAt(digests, chunk).equals(ZEROS_DIGEST)) continue;
      const page = chunk * CHUNK_PAGES;
      const run = { process: number, page, pageCount: Math.min(CHUNK_PAGES, size / PAGE_BYTES - page) };
      if (this.#differs(copied, run)) runs.push(run);
      if (runs.length === SENT_CHUNKS_MAX) await send();
      if (chunk % TURN_CHUNKS === 0) await letOthersRun();
    }
    if (runs.length > 0) await send();
  }

  #differs(copied: Copied, { page, pageCount }: PageRun): boolean {
    const known = digestAt(copied.digests, page / CHUNK_PAGES);
    if (known.equals(UNKNOWN_DIGEST)) return true;
    const bytes = this.#buffer.subarray(0, pageCount * PAGE_BYTES);
    read(copied, page, bytes);
    return known.equals(ZEROS_DIGEST) ? !isZeros(bytes) : !this.#digest(bytes).equals(known);
  }

  #digest(bytes: Uint8Array): Buffer {
    return isZeros(bytes) ? ZEROS_DIGEST : this.#gmac.of(bytes);
  }

  /** Lets go of the memory, and of the tasks. */
  [Symbol.dispose](): void {
    this.#tracker[Symbol.dispose]();
    for (const inode of this.#copied.keys()) this.#lose(inode);
  }
}

function digestAt(digests: Buffer, chunk: number): Buffer {
  return digests.subarray(chunk * DIGEST_BYTES, (chunk + 1) * DIGEST_BYTES);
}

/** 1 for each chunk in which there is something. */
function chunksWithData(fd: number, size: number): Uint8Array {
  const chunks = new Uint8Array(Math.ceil(size / CHUNK_BYTES));
  for (const { start, end } of dataExtents(fd, size)) chunks.fill(1, Math.floor(start / CHUNK_BYTES), Math.ceil(end / CHUNK_BYTES));
  return chunks;
}

function isZeros(bytes: Uint8Array): boolean {
  return ZEROS.compare(bytes, 0, bytes.length, 0, bytes.length) === 0;
}

/** Returns how many pages it has read: all that there is room for. Throws DUMP_FAILED. */
function read({ fd }: Copied, page: number, into: Uint8Array): number {
  if (readSync(fd, into, 0, into.length, page * PAGE_BYTES) !== into.length)
    throw new DmigrateError("DUMP_FAILED", "Shared memory became smaller while it was copied; migrate again");
  return into.length / PAGE_BYTES;
}
