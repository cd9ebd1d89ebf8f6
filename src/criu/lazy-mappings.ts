/**
 * Which memory CRIU can restore lazily (CRIU criu/include/vma.h, `vma_entry_can_be_lazy`). Pure.
 */
import type { MapsEntry } from "../kernel/maps.ts";

/** What a mapping means to a lazy dump: its pages may come later, must be in the images, or are none of the process's own. */
export type Laziness = "lazy" | "eager" | "none";

/**
 * Judges a mapping: lazy is private anonymous memory.
 * @param isLocked whether the process has memory that is locked, which can't be lazy: which it is this does not know
 */
export function lazinessOf({ shared, inode, path }: MapsEntry, isLocked: boolean): Laziness {
  if (shared || path.startsWith("[v")) return "none"; // [vdso] and the like are dumped whatever their pages are
  return inode === 0n && !isLocked ? "lazy" : "eager";
}
