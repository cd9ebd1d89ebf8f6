/**
 * Spares CRIU the lazy pages. For each page that is there a lazy dump takes a reference, in the freeze, which takes 0.1 to 0.2 ms for
 * each megabyte, and nothing is done with it: lazy pages are read from the frozen process when they are wanted. So CRIU is shown the page
 * map of a decoy instead: a process that has pages only where the real one has such as must be in the images
 * (docs/decisions/0013-page-server.md).
 */
import { readFileSync } from "node:fs";
import { DmigrateError } from "../core/errors.ts";
import { parseMaps, type MapsEntry } from "../kernel/maps.ts";
import { canScan, Pagemap, type AddressRange } from "../kernel/pagemap.ts";
import { canPuppet, Puppet } from "../kernel/puppet.ts";

/** Where the decoy keeps the one page that it needs itself: below what a program may use, with the kernel's default of vm.mmap_min_addr. */
const OWN_PAGE = 0x10000;
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

/** The pages of a process that may come later, and those that must be in the images. */
interface Pages {
  readonly lazy: readonly AddressRange[];
  readonly eager: readonly AddressRange[];
}

/** undefined: it has locked memory, which can't be lazy, and which it is this does not know. Throws ENOENT or ESRCH if it has ended. */
function pagesOf(pid: number): Pages | undefined {
  if (/^VmLck:\s+[1-9]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))) return undefined;
  using pagemap = new Pagemap(pid);
  const pages = { lazy: [] as AddressRange[], eager: [] as AddressRange[] };
  for (const mapping of parseMaps(readFileSync(`/proc/${pid}/maps`, "utf8"))) {
    const laziness = lazinessOf(mapping);
    const start = Math.max(mapping.start, OWN_PAGE + PAGE_BYTES);
    if (laziness !== "none") pages[laziness].push(...pagemap.present({ start, end: mapping.end }));
  }
  return pages;
}

function isSame(some: readonly AddressRange[], others: readonly AddressRange[]): boolean {
  return some.length === others.length && some.every(({ start, end }, at) => start === others[at]?.start && end === others[at]?.end);
}

/** The decoys of a container's tasks. Disposing of it ends them. */
export class PageDecoys implements Disposable {
  readonly #decoys = new Map<number, PageDecoy>();

  /** Whether this processor and this kernel can do it. Without, CRIU takes every page. */
  static get isPossible(): boolean {
    return canPuppet() && canScan();
  }

  /**
   * Makes decoys for tasks that still run. One that ends meanwhile gets none, nor does one that has locked memory. Throws KERNEL.
   * @param show has the dump see the page map of a decoy as that of a task
   */
  async prepare(pids: Iterable<number>, show: (decoyPid: number, pid: number) => void): Promise<void> {
    for (const pid of pids) {
      const pages = ofRunning(pid);
      if (pages === undefined) continue;
      const decoy = await PageDecoy.begin();
      this.#decoys.set(pid, decoy);
      await decoy.show(pages.eager);
      show(decoy.pid, pid);
    }
  }

  /**
   * Brings the decoys up to date with the tasks, which are frozen now. Tasks that have none are CRIU's. Throws KERNEL, or DUMP_FAILED
   * if one has locked memory since.
   * @param tasks process ids on this host by those inside the container
   * @returns the lazy pages of each task that has a decoy, by its id inside the container, in ascending order: CRIU does not know of them
   */
  async update(tasks: ReadonlyMap<number, number>): Promise<ReadonlyMap<number, readonly AddressRange[]>> {
    const lazy = new Map<number, readonly AddressRange[]>();
    for (const [process, pid] of tasks) {
      const decoy = this.#decoys.get(pid);
      if (decoy === undefined) continue;
      const pages = pagesOf(pid);
      if (pages === undefined) throw new DmigrateError("DUMP_FAILED", `Process ${process} locks memory now; migrate again`);
      await decoy.show(pages.eager);
      lazy.set(process, pages.lazy);
    }
    return lazy;
  }

  [Symbol.dispose](): void {
    for (const decoy of this.#decoys.values()) decoy[Symbol.dispose]();
  }
}

/** Its pages as they are, if it has not ended. */
function ofRunning(pid: number): Pages | undefined {
  try {
    return pagesOf(pid);
  } catch (error) {
    if (error instanceof Error && "code" in error && (error.code === "ENOENT" || error.code === "ESRCH")) return undefined;
    throw error;
  }
}
