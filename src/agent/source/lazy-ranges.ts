/**
 * Which pages were lazy, in a file of the migration: a comparison by an agent after the one that froze the tasks needs to know.
 */
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import * as z from "zod";
import type { PageRange } from "../../memory/page-ranges.ts";

const FILE = "lazy-ranges.json";

/** Of each process, by its id inside the container. */
type LazyRanges = ReadonlyMap<number, readonly PageRange[]>;

const written = z.array(z.tuple([z.int(), z.array(z.object({ page: z.int(), pageCount: z.int() }))]));

/** @param folder of the migration */
export function writeLazyRanges(folder: string, ranges: LazyRanges): void {
  writeFileSync(path.join(folder, FILE), JSON.stringify([...ranges]), { mode: 0o600 });
}

/** Throws if there are none. */
export function readWrittenLazyRanges(folder: string): LazyRanges {
  return new Map(written.parse(JSON.parse(readFileSync(path.join(folder, FILE), "utf8"))));
}
