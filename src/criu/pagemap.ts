/**
 * CRIU's pagemap images: which pages of the address spaces exist, and which of them are lazy.
 *
 * The first entry is the head, the others are `pagemap_entry` (CRIU images/pagemap.proto).
 */
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { DmigrateError } from "../core/errors.ts";
import type { AddressRange } from "../kernel/pagemap.ts";
import { entriesOf, fieldsOf, numberField } from "./image-entries.ts";

const FIELD = { ADDRESS: 1, PAGE_COUNT_32: 2, FLAGS: 4, PAGE_COUNT: 5 } as const;
const PAGE_BYTES = 4096n;
/** Of what stands before each entry. */
const LENGTH_BYTES = 4;
/** Flag of a range whose pages the page server keeps (CRIU include/pagemap.h, PE_LAZY). */
const PE_LAZY = 2n;
/** The highest page of the largest address space that Linux knows, of 57 bits. */
const PAGE_MAX = 2 ** 45;
/** No host has so many: 16 TB. */
const PAGE_COUNT_MAX = 2 ** 32;

/** A range of pages of one address space. */
export interface PageRange {
  /** The first page: its address divided by the page size. */
  readonly page: number;
  readonly pageCount: number;
}

/** The lazy ranges of a pagemap image, in ascending order. Throws PROTOCOL if it is cut short or no image, or no memory is such. */
export function lazyRanges(image: Uint8Array): PageRange[] {
  const [, ...entries] = entriesOf(image);
  const decoded = entries.map(({ start, end }) => decodeEntry(image, start, end));
  const lazy = decoded.filter((each) => each.lazy).map(({ page, pageCount }) => ({ page, pageCount }));
  let [end, total] = [0, 0];
  for (const { page, pageCount } of lazy) {
    if (page < end) throw impossible();
    end = page + pageCount;
    total += pageCount;
  }
  if (end > PAGE_MAX || total > PAGE_COUNT_MAX) throw impossible();
  return lazy;
}

function impossible(): DmigrateError {
  return new DmigrateError("PROTOCOL", "The source's map of pages is of no memory that there is; update both agents to the same release");
}

/**
 * The lazy ranges of every process in a folder of images, by process id inside the container. The container stands still meanwhile: so
 * nobody waits for any of these small files. Throws PROTOCOL.
 */
export function readLazyRanges(images: string): Map<number, PageRange[]> {
  const processes = new Map<number, PageRange[]>();
  for (const name of readdirSync(images)) {
    const process = /^pagemap-(\d+)\.img$/.exec(name)?.[1];
    if (process !== undefined) processes.set(Number(process), lazyRanges(readFileSync(path.join(images, name))));
  }
  return processes;
}

/**
 * The image with these lazy ranges among its entries, as a lazy dump would have written it that knew of them. Throws PROTOCOL if it is no
 * such image, DUMP_FAILED if it has some of their pages: CRIU saw what it was not to see.
 * @param ranges in ascending order
 */
export function withLazyRanges(image: Buffer, ranges: readonly AddressRange[]): Buffer {
  const [head, ...spans] = entriesOf(image);
  const begin = image.subarray(0, head?.end ?? image.length);
  const entries = [
    ...spans.map(({ start, end }) => ({ range: decodeEntry(image, start, end), bytes: image.subarray(start - LENGTH_BYTES, end) })),
    ...ranges.map(pagesOf).map((range) => ({ range, bytes: encodeLazy(range) })),
  ].toSorted((a, b) => a.range.page - b.range.page);
  for (const [at, { range }] of entries.entries()) {
    const before = entries[at - 1]?.range;
    if (before !== undefined && before.page + before.pageCount > range.page)
      throw new DmigrateError("DUMP_FAILED", "CRIU has dumped pages that were to come later; migrate again");
  }
  return Buffer.concat([begin, ...entries.map(({ bytes }) => bytes)]);
}

/**
 * The image without lazy ranges in these places. Throws PROTOCOL if it is no such image.
 * @param places in ascending order
 */
export function withoutLazyPages(image: Buffer, places: readonly PageRange[]): Buffer {
  const [head, ...spans] = entriesOf(image);
  const entries = spans.flatMap(({ start, end }) => {
    const { lazy, ...range } = decodeEntry(image, start, end);
    return lazy ? cutOut(range, places).map(encodeLazy) : [image.subarray(start - LENGTH_BYTES, end)];
  });
  return Buffer.concat([image.subarray(0, head?.end ?? image.length), ...entries]);
}

/** What is left of a range. */
function cutOut({ page, pageCount }: PageRange, places: readonly PageRange[]): PageRange[] {
  const left: PageRange[] = [];
  let from = page;
  for (const place of places) {
    if (place.page >= page + pageCount) break;
    if (place.page > from) left.push({ page: from, pageCount: place.page - from });
    from = Math.max(from, place.page + place.pageCount);
  }
  if (from < page + pageCount) left.push({ page: from, pageCount: page + pageCount - from });
  return left;
}

/** The pages of a range of addresses that begins and ends with one. */
export function pagesOf({ start, end }: AddressRange): PageRange {
  return { page: start / Number(PAGE_BYTES), pageCount: (end - start) / Number(PAGE_BYTES) };
}

/** An entry with its length before it. Newer releases read the count of 64 bits, older ones that of 32. */
function encodeLazy({ page, pageCount }: PageRange): Buffer {
  const fields = [
    ...numberField(FIELD.ADDRESS, BigInt(page) * PAGE_BYTES),
    ...numberField(FIELD.PAGE_COUNT_32, pageCount),
    ...numberField(FIELD.FLAGS, PE_LAZY),
    ...numberField(FIELD.PAGE_COUNT, pageCount),
  ];
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeUInt32LE(fields.length);
  return Buffer.concat([length, Buffer.from(fields)]);
}

/** How many pages all processes have in them. */
export function lazyPageCount(processes: ReadonlyMap<number, readonly PageRange[]>): number {
  return [...processes.values()].flat().reduce((sum, { pageCount }) => sum + pageCount, 0);
}

function decodeEntry(image: Uint8Array, start: number, end: number): PageRange & { readonly lazy: boolean } {
  const values = new Map([...fieldsOf(image, start, end)].map(({ number, value }) => [number, value]));
  return {
    page: Number((values.get(FIELD.ADDRESS) ?? 0n) / PAGE_BYTES),
    pageCount: Number(values.get(FIELD.PAGE_COUNT) ?? values.get(FIELD.PAGE_COUNT_32) ?? 0n),
    lazy: ((values.get(FIELD.FLAGS) ?? 0n) & PE_LAZY) !== 0n,
  };
}
