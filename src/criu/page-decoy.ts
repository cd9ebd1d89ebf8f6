/**
 * Spares CRIU the lazy pages. For each page that is there a lazy dump takes a reference, in the freeze, which takes 0.05 ms for each
 * megabyte, and nothing is done with it: lazy pages are read from the frozen process when they are wanted. So CRIU is shown the page
 * map of a decoy instead: a process that has pages only where the real one has such as must be in the images
 * (docs/decisions/0013-page-server.md).
 */
import { readFileSync } from "node:fs";
import { DmigrateError } from "../core/errors.ts";
import { mappingsOf, type MapsEntry, type ReadMappings } from "../kernel/maps.ts";
import { appendRange, canScan, Pagemap, type AddressRange } from "../kernel/pagemap.ts";
import { canPuppet, Puppet } from "../kernel/puppet.ts";
import type { ShowDecoy } from "./lazy-dump.ts";
import { pagesOf, readLazyRanges, withLazyRanges, type PageRange } from "./pagemap.ts";

/** Where a decoy keeps the one page that it needs itself: below what a program may use, with the kernel's default of vm.mmap_min_addr. */
export const OWN_PAGE = 0x10000;
const PAGE_BYTES = 4096;

/** The decoy of one process. Disposing of it ends it. */
class PageDecoy implements Disposable {
  readonly #puppet: Puppet;
  #shown: readonly AddressRange[] = [];

  private constructor(puppet: Puppet) {
    this.#puppet = puppet;
  }

  /** Makes one that shows nothing. Throws KERNEL. */
  static async begin(): Promise<PageDecoy> {
    return new PageDecoy(await Puppet.begin(OWN_PAGE));
  }

  get pid(): number {
    return this.#puppet.pid;
  }

  /** Shows what must be in the images of a process as it is now. */
  async show(eager: readonly AddressRange[]): Promise<void> {
    if (isSame(eager, this.#shown)) return;
    await this.#puppet.clear();
    for (const range of eager) await this.#puppet.populate(range);
    this.#shown = eager;
  }

  [Symbol.dispose](): void {
    this.#puppet[Symbol.dispose]();
  }
}

/** What a mapping means to a lazy dump: its pages may come later, must be in the images, or are none of the process's own. */
export type Laziness = "lazy" | "eager" | "none";

/** Judges a mapping of a process that has locked none (CRIU criu/include/vma.h, `vma_entry_can_be_lazy`). Pure. */
export function lazinessOf({ shared, inode, path }: MapsEntry): Laziness {
  if (shared || path.startsWith("[v")) return "none"; // [vdso] and the like are dumped whatever their pages are
  return inode === 0n ? "lazy" : "eager";
}

/** The memory of a process: where its lazy pages are, and the pages that must be in the images. */
interface Memory {
  readonly lazy: readonly MapsEntry[];
  readonly eager: readonly AddressRange[];
}

/** undefined: it has locked memory, which can't be lazy, and which it is this does not know. Throws ENOENT or ESRCH if it has ended. */
function memoryOf(pid: number, read: ReadMappings = mappingsOf): Memory | undefined {
  if (/^VmLck:\s+[1-9]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))) return undefined;
  const mappings = read(pid);
  const eager: AddressRange[] = [];
  // As one what adjoins: of libraries a process has a hundred mappings, in a handful of places.
  for (const mapping of mappings) if (lazinessOf(mapping) === "eager") appendRange(eager, mapping.start, mapping.end);
  return { lazy: mappings.filter((mapping) => lazinessOf(mapping) === "lazy"), eager: presentIn(pid, eager) };
}

/** The pages of these mappings that are there. */
function presentIn(pid: number, mappings: readonly AddressRange[]): AddressRange[] {
  using pagemap = new Pagemap(pid);
  return mappings.flatMap(({ start, end }) => pagemap.present({ start: Math.max(start, OWN_PAGE + PAGE_BYTES), end }));
}

function isSame(some: readonly AddressRange[], others: readonly AddressRange[]): boolean {
  return some.length === others.length && some.every(({ start, end }, at) => start === others[at]?.start && end === others[at]?.end);
}

/** The decoys of a container's tasks. Disposing of it ends them. */
export class PageDecoys implements Disposable {
  readonly #decoys = new Map<number, PageDecoy>();
  /** The lazy mappings of each frozen task that has a decoy, by its id inside the container. */
  #mappings: ReadonlyMap<number, { readonly pid: number; readonly lazy: readonly MapsEntry[] }> = new Map();
  /** The lazy pages of each, in ascending order. */
  #lazy: ReadonlyMap<number, readonly AddressRange[]> | undefined;

  /** Whether this processor and this kernel can do it. Without, CRIU takes every page. */
  static get isPossible(): boolean {
    return canPuppet() && canScan();
  }

  /**
   * Makes decoys for tasks that still run. One that ends meanwhile gets none, nor does one that has locked memory. Throws KERNEL.
   * @param show has the dump see the page map of a decoy as that of a task
   */
  async prepare(pids: Iterable<number>, show: ShowDecoy): Promise<void> {
    for (const pid of pids) {
      const memory = ofRunning(pid);
      if (memory === undefined) continue;
      const decoy = await PageDecoy.begin();
      this.#decoys.set(pid, decoy);
      await decoy.show(memory.eager);
      show("pagemap", decoy.pid, pid);
    }
  }

  /**
   * Brings the decoys up to date with the tasks, which are frozen now. Those that have none are CRIU's. Throws KERNEL, or DUMP_FAILED if
   * one has locked memory since.
   * @param tasks process ids on this host by those inside the container
   * @param read reads their mappings
   */
  async update(tasks: ReadonlyMap<number, number>, read: ReadMappings = mappingsOf): Promise<void> {
    const mappings = new Map<number, { readonly pid: number; readonly lazy: readonly MapsEntry[] }>();
    for (const [process, pid] of tasks) {
      const decoy = this.#decoys.get(pid);
      if (decoy === undefined) continue;
      const memory = memoryOf(pid, read);
      if (memory === undefined) throw new DmigrateError("DUMP_FAILED", `Process ${process} locks memory now; migrate again`);
      await decoy.show(memory.eager);
      mappings.set(process, { pid, lazy: memory.lazy });
    }
    this.#mappings = mappings;
  }

  /**
   * Lists the lazy pages, 5 ms for half a gigabyte. CRIU may work meanwhile: it puts nothing of its own where the tasks have
   * mapped something. To be called in the same turn as the dump begins, so that no image is amended before. Throws KERNEL.
   */
  list(): void {
    this.#lazy = new Map([...this.#mappings].map(([process, { pid, lazy }]) => [process, presentIn(pid, lazy)]));
  }

  /** The image, if it is one that lacks pages because of a decoy, with those. Throws PROTOCOL or DUMP_FAILED. */
  amended(images: string, name: string): Buffer | undefined {
    const process = /^pagemap-(\d+)\.img$/.exec(name)?.[1];
    const lazy = process === undefined ? undefined : this.#lazy?.get(Number(process));
    return lazy === undefined ? undefined : withLazyRanges(readFileSync(`${images}/${name}`), lazy);
  }

  /** How many pages the images lack because of decoys. */
  get pageCount(): number {
    return [...(this.#lazy?.values() ?? [])].flat().reduce((sum, { start, end }) => sum + (end - start) / PAGE_BYTES, 0);
  }

  /** The lazy pages of all processes, by their ids inside the container: those of the images, and those that decoys hid from them. */
  lazyRanges(images: string): Map<number, PageRange[]> {
    const all = readLazyRanges(images);
    for (const [process, lazy] of this.#lazy ?? [])
      all.set(
        process,
        [...(all.get(process) ?? []), ...lazy.map(pagesOf)].toSorted((a, b) => a.page - b.page),
      );
    return all;
  }

  [Symbol.dispose](): void {
    for (const decoy of this.#decoys.values()) decoy[Symbol.dispose]();
  }
}

/** Its memory as it is, if it has not ended. */
function ofRunning(pid: number): Memory | undefined {
  try {
    return memoryOf(pid);
  } catch (error) {
    if (error instanceof Error && "code" in error && (error.code === "ENOENT" || error.code === "ESRCH")) return undefined;
    throw error;
  }
}
