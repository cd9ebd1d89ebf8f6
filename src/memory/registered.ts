/**
 * Whether the kernel will ask for the pages that a restored task lacks. Lazy memory that CRIU did not register for page faults would begin
 * with zeros, and nobody would be told.
 */
import { readFile } from "node:fs/promises";
import { DmigrateError } from "../core/errors.ts";
import { PAGE_BYTES } from "./page-protocol.ts";
import type { PageRange } from "./page-ranges.ts";

/** What the kernel says of the mappings of a task. */
export interface Registered {
  /** Those that are registered for missing pages (`um`), or that may become zeros at any time (`dp`, MAP_DROPPABLE of mmap(2): CRIU leaves
   * their content out). */
  readonly registered: readonly PageRange[];
  /** Those in which a forked child finds zeros (`wf`, MADV_WIPEONFORK of madvise(2)). */
  readonly wiped: readonly PageRange[];
}

/** By the text of /proc/PID/smaps (proc_pid_smaps(5)). Pure. */
export function registeredIn(smaps: string): Registered {
  const [registered, wiped]: [PageRange[], PageRange[]] = [[], []];
  let current: PageRange | undefined;
  for (const line of smaps.split("\n")) {
    const [, start, end] = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line) ?? [];
    if (start !== undefined && end !== undefined) {
      const page = Number.parseInt(start, 16) / PAGE_BYTES;
      current = { page, pageCount: Number.parseInt(end, 16) / PAGE_BYTES - page };
    } else if (current !== undefined && line.startsWith("VmFlags:")) {
      if (/ (um|dp)\b/.test(line)) registered.push(current);
      if (/ wf\b/.test(line)) wiped.push(current);
    }
  }
  return { registered, wiped };
}

/**
 * Throws RESTORE_FAILED if one of the pages that restored tasks lack would not be asked for.
 * @param lazy by process id inside the container, in ascending order
 * @param tasks process ids on this host by those inside the container
 * @returns by process id inside the container, where its forked children find zeros
 */
export async function assertRegistered(
  lazy: ReadonlyMap<number, readonly PageRange[]>,
  tasks: ReadonlyMap<number, number>,
): Promise<Map<number, readonly PageRange[]>> {
  const wipedOnFork = new Map<number, readonly PageRange[]>();
  for (const [process, ranges] of lazy) {
    if (ranges.length === 0) continue;
    const pid = tasks.get(process);
    const { registered, wiped } = registeredIn(pid === undefined ? "" : await readFile(`/proc/${pid}/smaps`, "utf8"));
    const missing = firstOutside(ranges, registered);
    if (missing !== undefined) throw notRegistered(process, missing);
    wipedOnFork.set(process, wiped);
  }
  return wipedOnFork;
}

/** The first page of some ranges that lies in none of the others; all in ascending order. Pure. */
export function firstOutside(ranges: readonly PageRange[], others: readonly PageRange[]): number | undefined {
  let at = 0;
  for (const { page, pageCount } of ranges) {
    for (let from = page; from < page + pageCount;) {
      let other = others[at];
      while (other !== undefined && other.page + other.pageCount <= from) other = others[++at];
      if (other === undefined || other.page > from) return from;
      from = other.page + other.pageCount;
    }
  }
  return undefined;
}

function notRegistered(process: number, page: number): DmigrateError {
  const where = `0x${(page * PAGE_BYTES).toString(16)}`;
  return new DmigrateError(
    "RESTORE_FAILED",
    `CRIU did not restore the memory of process ${process} at ${where} to be filled later; please report this as a bug`,
  );
}
