/**
 * The pages that tasks wrote just before they were frozen. They will be wanted first, so they cross first.
 *
 * A hint: what this does not tell comes later or when it is touched. Whatever fails here costs time and nothing else.
 */
import type { PageRange } from "../page-ranges.ts";
import { pagesOf, type BeginTracking, type DirtyTracker, type WrittenPages } from "./tracker.ts";

export class RecentWrites implements WrittenPages, Disposable {
  readonly isRest = false;
  readonly #trackers = new Map<number, DirtyTracker>();

  /** From now on the tasks' writes are noted, as far as that can be. Each of them is stopped for some hundred microseconds. */
  static async begin(pids: Iterable<number>, begin: BeginTracking): Promise<RecentWrites> {
    const writes = new RecentWrites();
    for (const pid of pids) await writes.#watch(pid, begin).catch(() => {}); // it has ended, is traced, or the kernel can't do this
    return writes;
  }

  async #watch(pid: number, begin: BeginTracking): Promise<void> {
    const tracker = await begin(pid);
    this.#trackers.set(pid, tracker);
    tracker.written(); // which begins anew
  }

  /** What was written since. */
  told(tasks: ReadonlyMap<number, number>): Map<number, readonly PageRange[]> {
    const all = new Map<number, readonly PageRange[]>();
    for (const [process, pid] of tasks) {
      const tracker = this.#trackers.get(pid);
      try {
        if (tracker !== undefined) all.set(process, pagesOf(tracker.writtenByNow()));
      } catch {
        // It runs another program, or what tracks it has failed.
      }
    }
    return all;
  }

  /** Ends it: nothing is left in the tasks. */
  [Symbol.dispose](): void {
    for (const tracker of this.#trackers.values()) tracker[Symbol.dispose]();
    this.#trackers.clear();
  }
}
