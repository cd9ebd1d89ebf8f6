/**
 * Which content the target has, page by page, and by which number: what a source remembers of what it has sent ahead.
 *
 * A page is known by its SHA-256. Most content comes as it came before, in the same pieces of 64 pages: these are known by a GMAC, too,
 * which takes a tenth of the time.
 */
import { hash } from "node:crypto";
import { Gmac } from "./gmac.ts";
import { PAGE_BYTES } from "./page-protocol.ts";

/** Content is looked at in pieces of so many bytes; the last one of something is shorter. */
export const PIECE_BYTES: number = 64 * PAGE_BYTES;
const DIGEST_BYTES = 32;
const FREE = 0xff_ff_ff_ff;
/** Of the slots of a table so many are taken at most. */
const LOAD = 0.5;
const SLOTS_MIN = 1024;

/** Successive pages that the target has by successive numbers, or that it has not. */
export interface KnownRun {
  readonly pageCount: number;
  /** The number of the first; undefined if the target lacks them. */
  readonly number: number | undefined;
}

/** Pages that the target has to get. */
export interface NewRun {
  /** Which page of its piece is the first. */
  readonly at: number;
  readonly number: number;
  readonly pageCount: number;
}

export class KnownContent {
  readonly #pages = new DigestTable();
  readonly #pieces = new Map<string, readonly KnownRun[]>();
  readonly #gmac = new Gmac();

  /** How many different pages there are. */
  get pageCount(): number {
    return this.#pages.count;
  }

  /** What is known of a piece, whole pages, in order. */
  runs(piece: Uint8Array): readonly KnownRun[] {
    const known = this.#pieces.get(this.#nameOf(piece));
    return known ?? runsOf(pagesOf(piece).map((page) => this.#pages.numberOf(digestOf(page))));
  }

  /** From now on the piece is known. Returns which of its pages were not. */
  learn(piece: Uint8Array): readonly NewRun[] {
    const name = this.#nameOf(piece);
    if (this.#pieces.has(name)) return [];
    const firstNew = this.pageCount;
    const numbers = pagesOf(piece).map((page) => this.#pages.add(digestOf(page)));
    if (name !== "") this.#pieces.set(name, runsOf(numbers));
    return newRuns(numbers, firstNew);
  }

  /** "" for a piece that is too short to be known by a name. */
  #nameOf(piece: Uint8Array): string {
    return piece.length === PIECE_BYTES ? this.#gmac.of(piece).toString("latin1") : "";
  }
}

function pagesOf(piece: Uint8Array): Uint8Array[] {
  return Array.from({ length: piece.length / PAGE_BYTES }, (_, at) => piece.subarray(at * PAGE_BYTES, (at + 1) * PAGE_BYTES));
}

function digestOf(page: Uint8Array): Buffer {
  return hash("sha256", page, "buffer");
}

function runsOf(numbers: readonly (number | undefined)[]): KnownRun[] {
  const runs: { pageCount: number; readonly number: number | undefined }[] = [];
  for (const number of numbers) {
    const last = runs.at(-1);
    if (last !== undefined && number === (last.number === undefined ? undefined : last.number + last.pageCount)) last.pageCount += 1;
    else runs.push({ number, pageCount: 1 });
  }
  return runs;
}

/** A new page got the next number, in the order of the piece; whatever comes again has that already. */
function newRuns(numbers: readonly number[], firstNew: number): NewRun[] {
  const runs: { readonly at: number; readonly number: number; pageCount: number }[] = [];
  let next = firstNew;
  for (const [at, number] of numbers.entries()) {
    if (number !== next) continue;
    next += 1;
    const last = runs.at(-1);
    if (last !== undefined && last.at + last.pageCount === at) last.pageCount += 1;
    else runs.push({ at, number, pageCount: 1 });
  }
  return runs;
}

/** Digests and their numbers, from 0 in the order in which they came: 40 bytes each, where a `Map` takes hundreds. */
class DigestTable {
  #count = 0;
  #digests = Buffer.alloc(SLOTS_MIN * LOAD * DIGEST_BYTES);
  #slots = new Uint32Array(SLOTS_MIN).fill(FREE);

  get count(): number {
    return this.#count;
  }

  numberOf(digest: Buffer): number | undefined {
    const number = this.#slots[this.#slotOf(digest)];
    return number === FREE ? undefined : number;
  }

  /** Returns its number, a new one if it has none. */
  add(digest: Buffer): number {
    const known = this.numberOf(digest);
    if (known !== undefined) return known;
    if (this.#count >= this.#slots.length * LOAD) this.#grow();
    this.#digests.set(digest, this.#count * DIGEST_BYTES);
    this.#slots[this.#slotOf(digest)] = this.#count;
    return this.#count++;
  }

  /** Where it is, or would be. */
  #slotOf(digest: Buffer): number {
    let slot = digest.readUInt32LE(0) % this.#slots.length;
    for (; ; slot = (slot + 1) % this.#slots.length) {
      const at = (this.#slots[slot] ?? FREE) * DIGEST_BYTES;
      if (this.#slots[slot] === FREE || digest.compare(this.#digests, at, at + DIGEST_BYTES) === 0) return slot;
    }
  }

  #grow(): void {
    const digests = this.#digests;
    this.#digests = Buffer.concat([digests, Buffer.alloc(digests.length)]);
    this.#slots = new Uint32Array(2 * this.#slots.length).fill(FREE);
    for (let number = 0; number < this.#count; number++)
      this.#slots[this.#slotOf(digests.subarray(number * DIGEST_BYTES, (number + 1) * DIGEST_BYTES))] = number;
  }
}
