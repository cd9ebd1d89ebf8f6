/**
 * Spares CRIU the lazy pages. For each page that is there a lazy dump takes a reference, in the freeze, which takes 0.1 to 0.2 ms for
 * each megabyte, and nothing is done with it: lazy pages are read from the frozen process when they are wanted. So CRIU is shown the page
 * map of a decoy instead: a process that has pages only where the real one has such as must be in the images
 * (docs/decisions/0013-page-decoy.md).
 */
import { readFileSync } from "node:fs";
import { parseMaps, type MapsEntry } from "../kernel/maps.ts";
import { Pagemap, type AddressRange } from "../kernel/pagemap.ts";
import { Puppet } from "../kernel/puppet.ts";
import { lazinessOf } from "./lazy-mappings.ts";

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

/** The pages of a process that may come later, and those that must be in the images. */
function pagesOf(pid: number): { readonly lazy: AddressRange[]; readonly eager: AddressRange[] } {
  const isLocked = !/^VmLck:\s+0 kB$/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  using pagemap = new Pagemap(pid);
  const pages = { lazy: [] as AddressRange[], eager: [] as AddressRange[] };
  for (const mapping of parseMaps(readFileSync(`/proc/${pid}/maps`, "utf8"))) {
    const laziness = lazinessOf(mapping, isLocked);
    if (laziness !== "none") pages[laziness].push(...presentIn(pagemap, mapping));
  }
  return pages;
}

function presentIn(pagemap: Pagemap, { start, end }: MapsEntry): AddressRange[] {
  return pagemap.present({ start: Math.max(start, OWN_PAGE + PAGE_BYTES), end });
}

function isSame(some: readonly AddressRange[], others: readonly AddressRange[]): boolean {
  return some.length === others.length && some.every(({ start, end }, at) => start === others[at]?.start && end === others[at]?.end);
}

/** The decoys of a container's tasks. Disposing of it ends them. */
export class PageDecoys implements Disposable {
  readonly #decoys = new Map<number, PageDecoy>();
  readonly #show: (decoyPid: number, pid: number) => void;

  /** @param show has the dump see the page map of a decoy as that of a task */
  constructor(show: (decoyPid: number, pid: number) => void) {
    this.#show = show;
  }

  /** Shows what these tasks have now; returns the lazy pages of each, in ascending order. Throws KERNEL, ENOENT or ESRCH. */
  async update(pids: Iterable<number>): Promise<ReadonlyMap<number, readonly AddressRange[]>> {
    const lazy = new Map<number, readonly AddressRange[]>();
    for (const pid of pids) {
      const pages = pagesOf(pid);
      const decoy = this.#decoys.get(pid) ?? (await this.#begin(pid));
      await decoy.show(pages.eager);
      lazy.set(pid, pages.lazy);
    }
    return lazy;
  }

  async #begin(pid: number): Promise<PageDecoy> {
    const decoy = await PageDecoy.begin();
    this.#decoys.set(pid, decoy);
    this.#show(decoy.pid, pid);
    return decoy;
  }

  [Symbol.dispose](): void {
    for (const decoy of this.#decoys.values()) decoy[Symbol.dispose]();
  }
}
