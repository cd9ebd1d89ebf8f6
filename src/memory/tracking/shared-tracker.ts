/**
 * Tracks which pages of shared memory were written since they were looked at last, by write protection in each process that maps it.
 *
 * What is not told must be unwritten whatever the processes did. So a page is told unless in each of them its protection stands, which a
 * write takes away for good; and of an object all is unknown if something happened by which it could change unseen:
 * - a process that maps it was not there, or not protected, or mapped it otherwise when it was looked at last;
 * - one has forked, and the child may have written and ended; one has ended, with what was known of it;
 * - one has given content up (madvise(2), MADV_REMOVE), which leaves the protection of what is not there any more.
 * The last two the kernel tells, and has the process wait until that was read.
 */
import { InputWatch } from "../../kernel/epoll.ts";
import { Pagemap, type AddressRange } from "../../kernel/pagemap.ts";
import type { SharedMapping, SharedObject } from "../../kernel/shared-objects.ts";
import { WriteProtection, type OpenUserfaultfd } from "../../kernel/write-protection.ts";
import { PAGE_BYTES } from "../page-protocol.ts";
import { PageSet } from "../page-set.ts";
import type { PageRange } from "../page-ranges.ts";

/** Whose processes have forked so often are tracked no more: a fork of a process that is takes longer, 30 ms for a gigabyte. */
const FORKS_MAX = 32;

/** What was protected when it was looked at last, by its object's inode. */
type Protected = ReadonlyMap<bigint, readonly SharedMapping[]>;

export class SharedTracker implements Disposable {
  readonly #openUserfaultfd: OpenUserfaultfd | undefined;
  readonly #watch = new InputWatch();
  readonly #protections = new Map<number, WriteProtection>();
  /** Whether something may have changed unseen since they were looked at last. */
  #isDoubtful = false;
  #forkCount = 0;
  #protected: Protected = new Map();

  constructor(open?: OpenUserfaultfd) {
    this.#openUserfaultfd = open;
  }

  /** Begins with processes that are new, each of which is stopped for some hundred microseconds. They run. */
  async follow(objects: Iterable<SharedObject>): Promise<void> {
    if (this.#hasGivenUp) return;
    for (const { mappings } of objects) {
      for (const { pid, mapping } of mappings) {
        const protection = this.#protections.get(pid) ?? (await this.#begin(pid));
        protection?.add(mapping); // one that can't be is told as not tracked
      }
    }
  }

  async #begin(pid: number): Promise<WriteProtection | undefined> {
    let protection: WriteProtection;
    try {
      protection = await WriteProtection.begin(pid, this.#openUserfaultfd, true);
    } catch {
      return undefined; // it has ended, is traced, or the kernel can't do this
    }
    this.#protections.set(pid, protection);
    this.#watch.add(protection.userfaults.fd, () => this.#read(protection));
    return protection;
  }

  /** Whatever it tells of, it is a change that protection does not show. */
  #read(protection: WriteProtection): void {
    for (let events = protection.userfaults.read(); events.length > 0; events = protection.userfaults.read()) {
      this.#isDoubtful = true;
      for (const event of events) {
        if (event.kind !== "fork") continue;
        event.child[Symbol.dispose](); // it is as any other new process
        this.#forkCount += 1;
      }
    }
    if (this.#hasGivenUp) this.#endAll();
  }

  get #hasGivenUp(): boolean {
    return this.#forkCount > FORKS_MAX;
  }

  /**
   * Which pages of each object were perhaps written since the last call, and begins anew; undefined for one of which that is not known. The
   * processes stand still.
   */
  written(objects: ReadonlyMap<bigint, SharedObject>): Map<bigint, PageRange[] | undefined> {
    const told = this.writtenByNow(objects);
    const now = new Map<bigint, readonly SharedMapping[]>();
    for (const [inode, { mappings }] of objects) if (mappings.every((each) => this.#protect(each))) now.set(inode, mappings);
    this.#protected = now;
    this.#isDoubtful = false;
    return told;
  }

  /** The same, without a new beginning. */
  writtenByNow(objects: ReadonlyMap<bigint, SharedObject>): Map<bigint, PageRange[] | undefined> {
    for (const [pid, protection] of this.#protections) {
      this.#read(protection);
      if (this.#hasGivenUp) break;
      if (protection.isAlive) continue;
      this.#isDoubtful = true;
      this.#end(pid, protection);
    }
    return new Map([...objects].map(([inode, object]) => [inode, this.#isDoubtful ? undefined : this.#writtenOf(object)]));
  }

  #writtenOf({ inode, mappings }: SharedObject): PageRange[] | undefined {
    if (!isSame(mappings, this.#protected.get(inode) ?? [])) return undefined;
    const pageCount = Math.max(...mappings.map(({ mapping: { start, end, offset } }) => offset + end - start)) / PAGE_BYTES;
    const written = new PageSet();
    for (const { pid, mapping } of mappings) {
      const { start, end, offset } = mapping;
      using pagemap = new Pagemap(pid);
      const kept = pagemap.protectedPages({ start, end });
      if (kept === undefined) return undefined;
      for (const range of gapsOf(kept, { start, end }))
        written.add({ page: (range.start - start + offset) / PAGE_BYTES, pageCount: (range.end - range.start) / PAGE_BYTES });
    }
    return [...written.within({ page: 0, pageCount })];
  }

  #protect({ pid, mapping }: SharedMapping): boolean {
    const protection = this.#protections.get(pid);
    if (protection === undefined) return false;
    using pagemap = new Pagemap(pid);
    const kept = pagemap.protectedPages(mapping);
    return kept !== undefined && [...gapsOf(kept, mapping)].every((range) => protection.protect(range));
  }

  #end(pid: number, protection: WriteProtection): void {
    this.#watch.delete(protection.userfaults.fd);
    this.#protections.delete(pid);
    protection[Symbol.dispose]();
  }

  #endAll(): void {
    for (const [pid, protection] of this.#protections) this.#end(pid, protection);
  }

  /** Ends the tracking: nothing is left in the processes. */
  [Symbol.dispose](): void {
    this.#endAll();
    this.#watch[Symbol.dispose]();
  }
}

/** What of a range lies between others within it, which are in ascending order. */
function* gapsOf(ranges: readonly AddressRange[], { start, end }: AddressRange): Generator<AddressRange, void> {
  let at = start;
  for (const range of ranges) {
    if (range.start > at) yield { start: at, end: range.start };
    at = range.end;
  }
  if (at < end) yield { start: at, end };
}

function isSame(some: readonly SharedMapping[], others: readonly SharedMapping[]): boolean {
  const known = new Set(others.map(nameOf));
  return some.length === others.length && some.every((each) => known.has(nameOf(each)));
}

function nameOf({ pid, mapping: { start, end, offset } }: SharedMapping): string {
  return `${pid} ${start} ${end} ${offset}`;
}
