/**
 * A file of our own among CRIU's images: which pages the tasks wrote last before they were frozen. What was copied ahead of them holds no
 * more, and the target asks for them first.
 *
 * Three numbers a range, each a little-endian f64 that holds an integer: process id inside the container, number of the first page,
 * count of pages. A process that wrote nothing has one range of none.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { DmigrateError } from "../core/errors.ts";
import type { PageRange } from "./pagemap.ts";

const NAME = "written-pages.bin";
const ENTRY_NUMBERS = 3;
const NUMBER_BYTES = 8;
/** The highest page of the largest address space that Linux knows, of 57 bits. */
const PAGE_MAX = 2 ** 45;

/** Writes it into a folder of images. */
export function writeWrittenPages(images: string, processes: ReadonlyMap<number, readonly PageRange[]>): void {
  const numbers = [...processes].flatMap(([process, ranges]) =>
    ranges.length === 0 ? [process, 0, 0] : ranges.flatMap(({ page, pageCount }) => [process, page, pageCount]),
  );
  const bytes = Buffer.alloc(numbers.length * NUMBER_BYTES);
  for (const [at, number] of numbers.entries()) bytes.writeDoubleLE(number, at * NUMBER_BYTES);
  writeFileSync(`${images}/${NAME}`, bytes, { mode: 0o600 });
}

/** Reads it; a source that knows of no process has not written it. Throws PROTOCOL if it is not as it should be. */
export function readWrittenPages(images: string): Map<number, readonly PageRange[]> {
  const file = `${images}/${NAME}`;
  if (!existsSync(file)) return new Map();
  const bytes = readFileSync(file);
  if (bytes.length % (ENTRY_NUMBERS * NUMBER_BYTES) !== 0) throw unreadable();
  const all = new Map<number, PageRange[]>();
  for (let at = 0; at < bytes.length; at += ENTRY_NUMBERS * NUMBER_BYTES) {
    const [process, page, pageCount] = [0, 1, 2].map((nth) => bytes.readDoubleLE(at + nth * NUMBER_BYTES)) as [number, number, number];
    if (![process, page, pageCount].every((number) => Number.isSafeInteger(number) && number >= 0)) throw unreadable();
    if (process === 0 || page + pageCount > PAGE_MAX) throw unreadable();
    const ranges = all.get(process) ?? [];
    if (pageCount > 0) ranges.push({ page, pageCount });
    all.set(process, ranges);
  }
  return all;
}

function unreadable(): DmigrateError {
  return new DmigrateError("PROTOCOL", "The source's list of written pages can't be read; update both agents to the same release");
}
