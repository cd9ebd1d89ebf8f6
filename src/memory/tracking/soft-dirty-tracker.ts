/**
 * Tracks by the kernel's soft-dirty bits (src/kernel/pagemap.ts): costs the process one page fault in the kernel for each page that it
 * writes between two calls, and each call some 50 ns for each page that is there.
 *
 * The bits alone miss something: mremap(2) moves whole page tables, 2 MB, and then what is new at its place is not marked
 * (mm/mremap.c, move_normal_pmd). So it is remembered where the content of each page lay, and a page is told if that is another place.
 * Of huge pages of hugetlbfs the kernel notes nothing: they are told each time.
 *
 * The bits belong to the process, not to who looks at them: nobody else may use them at the same time.
 */
import { statfsSync } from "node:fs";
import type { MapsEntry } from "../../kernel/maps.ts";
import { appendRange, cleanSoftDirty, Pagemap, type AddressRange } from "../../kernel/pagemap.ts";
import { PAGE_BYTES } from "../page-protocol.ts";
import { trackedMappings, type DirtyTracker } from "./tracker.ts";

/** What is remembered of pages side by side lies in one array. */
const BLOCK_PAGES = 512;
const BLOCK_BYTES = BLOCK_PAGES * PAGE_BYTES;
/** statfs(2). */
const HUGETLBFS_MAGIC = 0x958458f6;

/** Where the content of pages lies, by block. */
type Frames = Map<number, Float64Array>;

export class SoftDirtyTracker implements DirtyTracker {
  readonly #pid: number;
  /** Of each page that was told where its content was; 0 for the others. */
  #frames: Frames = new Map();

  constructor(pid: number) {
    this.#pid = pid;
  }

  async follow(): Promise<void> {
    // Another program begins with its bits set.
  }

  written(): AddressRange[] {
    const frames: Frames = new Map();
    const found = this.#look(frames);
    this.#frames = frames;
    cleanSoftDirty(this.#pid);
    return found;
  }

  writtenByNow(): AddressRange[] {
    return this.#look();
  }

  copied(): void {
    // The kernel notes what is written, whatever was read.
  }

  /** @param frames takes where the content of each page is now */
  #look(frames?: Frames): AddressRange[] {
    using pagemap = new Pagemap(this.#pid);
    const found: AddressRange[] = [];
    for (const mapping of trackedMappings(this.#pid)) {
      const isUnmarked = this.#isHuge(mapping);
      for (const range of this.#rangesOf(mapping)) {
        let block = -1;
        let before: Float64Array | undefined;
        let now: Float64Array | undefined;
        pagemap.read(range, (address, frame, isSoftDirty) => {
          if (Math.floor(address / BLOCK_BYTES) !== block) {
            block = Math.floor(address / BLOCK_BYTES);
            before = this.#frames.get(block);
            now = frames === undefined ? undefined : blockOf(frames, block);
          }
          const at = (address / PAGE_BYTES) & (BLOCK_PAGES - 1);
          if (now !== undefined) now[at] = frame;
          if (isSoftDirty || isUnmarked || frame === 0 || before?.[at] !== frame) appendRange(found, address, address + PAGE_BYTES);
        });
      }
    }
    return found;
  }

  /**
   * What is looked at of a mapping. Many a program reserves far more addresses than it uses, and makes those accessible that it does: of
   * what is not, nothing has been copied but where something was told before.
   */
  #rangesOf({ start, end, readable }: MapsEntry): AddressRange[] {
    if (readable) return [{ start, end }];
    return [...this.#frames.keys()]
      .map((block) => ({ start: Math.max(start, block * BLOCK_BYTES), end: Math.min(end, (block + 1) * BLOCK_BYTES) }))
      .filter((range) => range.start < range.end)
      .toSorted((one, other) => one.start - other.start);
  }

  /** Whether its pages are those of hugetlbfs, of which one has 2 MB at least. */
  #isHuge({ start, end, inode }: MapsEntry): boolean {
    if (inode === 0n || start % BLOCK_BYTES !== 0 || end % BLOCK_BYTES !== 0) return false;
    return statfsSync(`/proc/${this.#pid}/map_files/${start.toString(16)}-${end.toString(16)}`).type === HUGETLBFS_MAGIC;
  }

  [Symbol.dispose](): void {
    this.#frames.clear();
  }
}

function blockOf(frames: Frames, block: number): Float64Array {
  const known = frames.get(block);
  if (known !== undefined) return known;
  const made = new Float64Array(BLOCK_PAGES);
  frames.set(block, made);
  return made;
}
