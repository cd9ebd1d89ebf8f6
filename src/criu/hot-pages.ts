/**
 * A file of our own among CRIU's images: which pages the tasks wrote just before they were frozen, so that the target asks for them first.
 * JSON: by process id inside the container, pairs of a page's number and how many follow it, itself among them.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { z } from "zod";
import { DmigrateError } from "../core/errors.ts";
import type { PageRange } from "./pagemap.ts";

const NAME = "hot-pages.json";
const Content = z.record(z.string().regex(/^\d+$/), z.array(z.tuple([z.int().nonnegative(), z.int().positive()])));

/** Writes it into a folder of images. */
export function writeHotPages(images: string, processes: ReadonlyMap<number, readonly PageRange[]>): void {
  const content = [...processes].map(([process, ranges]) => [process, ranges.map(({ page, pageCount }) => [page, pageCount])] as const);
  writeFileSync(`${images}/${NAME}`, JSON.stringify(Object.fromEntries(content)), { mode: 0o600 });
}

/** Reads it; a source that knows of none has not written it. Throws PROTOCOL if it is not as it should be. */
export function readHotPages(images: string): Map<number, readonly PageRange[]> {
  const file = `${images}/${NAME}`;
  if (!existsSync(file)) return new Map();
  try {
    const content = Object.entries(Content.parse(JSON.parse(readFileSync(file, "utf8"))));
    return new Map(content.map(([process, pairs]) => [Number(process), pairs.map(([page, pageCount]) => ({ page, pageCount }))]));
  } catch (error) {
    throw new DmigrateError("PROTOCOL", "The source's list of hot pages can't be read; update both agents to the same release", error);
  }
}
