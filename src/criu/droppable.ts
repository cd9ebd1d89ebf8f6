/**
 * Memory that the kernel may drop at any time (MAP_DROPPABLE of mmap(2)), in which glibc keeps the state of generators of random numbers.
 * It can't be registered for missing pages: the stock `criu lazy-pages` asks for such a page, can put it nowhere, and asks again for ever.
 * So the page maps that it reads have none of them, and they begin with zeros, as if they had been dropped.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { entriesOf, fieldsOf } from "./image-entries.ts";
import { pagesOf, withoutLazyPages, type PageRange } from "./pagemap.ts";

/** images/mm.proto: the mappings of an mm_entry; images/vma.proto. */
const MAPPINGS = 14;
const MAPPING = { START: 1, END: 2, FLAGS: 6 } as const;
/** The type of a mapping, in its flags (MAP_TYPE of the kernel's mman.h). */
const MAP_TYPE = 0xfn;
const MAP_DROPPABLE = 8n;

/** Rewrites the page maps in a folder of images. The container stands still meanwhile: nobody waits for these files. Throws PROTOCOL. */
export function leaveOutDroppable(images: string): void {
  for (const name of readdirSync(images)) {
    const process = /^mm-(\d+)\.img$/.exec(name)?.[1];
    const file = path.join(images, `pagemap-${process}.img`);
    if (process === undefined || !existsSync(file)) continue;
    const droppable = droppableIn(readFileSync(path.join(images, name)));
    if (droppable.length > 0) writeFileSync(file, withoutLazyPages(readFileSync(file), droppable));
  }
}

/** The pages of such mappings in an image of the memory of a process. Pure. Throws PROTOCOL if it is none. */
export function droppableIn(image: Uint8Array): PageRange[] {
  const mappings = [...entriesOf(image)].flatMap(({ start, end }) =>
    [...fieldsOf(image, start, end)].filter(({ number }) => number === MAPPINGS),
  );
  return mappings.flatMap(({ start, end }) => {
    const values = new Map([...fieldsOf(image, start, end)].map(({ number, value }) => [number, value]));
    const valueOf = (number: number): bigint => values.get(number) ?? 0n;
    if ((valueOf(MAPPING.FLAGS) & MAP_TYPE) !== MAP_DROPPABLE) return [];
    return [pagesOf({ start: Number(valueOf(MAPPING.START)), end: Number(valueOf(MAPPING.END)) })];
  });
}
