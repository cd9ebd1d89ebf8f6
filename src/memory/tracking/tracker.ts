/**
 * Which pages of a running process must be copied again: the port that the rounds of a migration use, with an adapter for each means
 * that a kernel may have (docs/dirty-tracking.md).
 *
 * Tracked is private memory: what a process has to itself, or shares with its forked parent until one of them writes.
 */
import { mappingsOf, type MapsEntry } from "../../kernel/maps.ts";
import type { AddressRange } from "../../kernel/pagemap.ts";
import { PAGE_BYTES } from "../page-protocol.ts";
import type { PageRange } from "../page-ranges.ts";

/** Watches one process, whatever program it runs. Disposing of it leaves the process as it was, and so does the death of this one. */
export interface DirtyTracker extends Disposable {
  /**
   * Sees to it that the program is tracked that the process runs now, and not one before. It must not stand still. Without this, all of
   * another program is told at each call.
   */
  follow(): Promise<void>;
  /**
   * The pages that hold something of the process's own and were perhaps written since the last call, the first time all of them; in
   * ascending order. The process stands still, and no system call of it is under way; what it writes afterwards is told by the next call.
   * Throws ENOENT, ESRCH or KERNEL if it has ended, or can't be tracked any more.
   */
  written(): AddressRange[];
  /** Like `written`, without a new beginning: the next call will tell them again. */
  writtenByNow(): AddressRange[];
  /** Pages that `written` told were read so and are copied, while the process ran; valid during the call. */
  copied(address: number, bytes: Uint8Array): void;
}

/** Begins to track a process. Throws KERNEL if it can't be tracked. */
export type BeginTracking = (pid: number) => Promise<DirtyTracker>;

/** The pages of these addresses. */
export function pagesOf(ranges: readonly AddressRange[]): PageRange[] {
  return ranges.map(({ start, end }) => ({ page: start / PAGE_BYTES, pageCount: (end - start) / PAGE_BYTES }));
}

/** Who knows what tasks wrote last. */
export interface WrittenPages {
  /** Whether all other pages of the processes that it tells of were copied ahead. */
  readonly isRest: boolean;
  /**
   * Tells it by process id inside the container, in ascending order.
   * @param tasks process ids on this host by those inside the container; none of them runs
   */
  told(tasks: ReadonlyMap<number, number>): Map<number, readonly PageRange[]>;
}

/** The tracked mappings of a process as they are now. Throws ENOENT or ESRCH if it has ended. */
export function trackedMappings(pid: number): MapsEntry[] {
  return mappingsOf(pid).filter(isTracked);
}

/** Whether the pages of a mapping are tracked: it is private, and its content is not the kernel's (vdso(7)). */
export function isTracked({ shared, path }: MapsEntry): boolean {
  return !shared && !path.startsWith("[v");
}
