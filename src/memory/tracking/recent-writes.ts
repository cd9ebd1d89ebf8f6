/**
 * The pages that tasks wrote just before they were frozen. They will be wanted first, so they cross first.
 *
 * A hint: what this does not tell comes later or when it is touched. Whatever fails here costs time and nothing else.
 */
import { Pagemap, type AddressRange } from "../../kernel/pagemap.ts";
import { WriteProtection, type OpenUserfaultfd } from "../../kernel/write-protection.ts";
import type { PageRange } from "../page-ranges.ts";
import { PAGE_BYTES } from "../page-protocol.ts";
import { trackedMappings, type WrittenPages } from "./tracker.ts";

export class RecentWrites implements WrittenPages, Disposable {
  readonly isRest = false;
  readonly #protections = new Map<number, WriteProtection>();

  /** From now on the tasks' writes are noted, as far as that can be. Each of them is stopped for some hundred microseconds. */
  static async begin(pids: Iterable<number>, open?: OpenUserfaultfd): Promise<RecentWrites> {
    const writes = new RecentWrites();
    for (const pid of pids) await writes.#watch(pid, open).catch(() => {}); // it has ended, is traced, or the kernel can't do this
    return writes;
  }

  async #watch(pid: number, open: OpenUserfaultfd | undefined): Promise<void> {
    const protection = await WriteProtection.begin(pid, open);
    this.#protections.set(pid, protection);
    using pagemap = new Pagemap(pid);
    for (const mapping of trackedMappings(pid)) if (protection.add(mapping)) pagemap.written(mapping); // which begins anew
  }

  /** What was written since. */
  told(tasks: ReadonlyMap<number, number>): Map<number, readonly PageRange[]> {
    const all = new Map<number, readonly PageRange[]>();
    for (const [process, pid] of tasks) {
      if (!this.#protections.has(pid)) continue;
      const pages = writtenBy(pid).map(({ start, end }) => ({ page: start / PAGE_BYTES, pageCount: (end - start) / PAGE_BYTES }));
      all.set(process, pages);
    }
    return all;
  }

  /** Ends it: nothing is left in the tasks. */
  [Symbol.dispose](): void {
    for (const protection of this.#protections.values()) protection[Symbol.dispose]();
    this.#protections.clear();
  }
}

function writtenBy(pid: number): AddressRange[] {
  using pagemap = new Pagemap(pid);
  return trackedMappings(pid).flatMap((mapping) => pagemap.writtenByNow(mapping) ?? []);
}
