/**
 * Reads CRIU's pagemap images: which pages of the address spaces exist, and which of them are lazy.
 *
 * The first entry is the head, the others are `pagemap_entry` (CRIU images/pagemap.proto).
 */
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { entriesOf, fieldsOf } from "./image-entries.ts";

const FIELD = { ADDRESS: 1, PAGE_COUNT_32: 2, FLAGS: 4, PAGE_COUNT: 5 } as const;
const PAGE_BYTES = 4096n;
/** Flag of a range whose pages the page server keeps (CRIU include/pagemap.h, PE_LAZY). */
const PE_LAZY = 2n;

/** A range of pages of one address space. */
export interface PageRange {
  /** The first page: its address divided by the page size. */
  readonly page: number;
  readonly pageCount: number;
}

/** The lazy ranges of a pagemap image, in ascending order. Throws PROTOCOL if it is cut short or no image. */
export function lazyRanges(image: Uint8Array): PageRange[] {
  const [, ...entries] = entriesOf(image);
  return entries.map(({ start, end }) => decodeEntry(image, start, end)).filter(({ lazy }) => lazy);
}

/** The lazy ranges of every process in a folder of images, by process id inside the container. Throws PROTOCOL. */
export async function readLazyRanges(images: string): Promise<Map<number, PageRange[]>> {
  const processes = new Map<number, PageRange[]>();
  for (const name of await readdir(images)) {
    const process = /^pagemap-(\d+)\.img$/.exec(name)?.[1];
    if (process !== undefined) processes.set(Number(process), lazyRanges(await readFile(path.join(images, name))));
  }
  return processes;
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
