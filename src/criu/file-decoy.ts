/**
 * Spares CRIU the content of shared memory. CRIU dumps the file that such memory is, as /proc/PID/map_files leads to it, in the freeze. So
 * it is shown the mapped files of a decoy instead: a process that has the real one's files mapped where that has them, and in place of
 * shared memory an empty file that looks the same (docs/decisions/0021-shared-memory.md).
 *
 * INVARIANT: CRIU sees the same file wherever tasks share memory: one that takes the place of an object does so in all tasks.
 */
import * as fs from "node:fs";
import { DmigrateError, messageOf } from "../core/errors.ts";
import { mappingsOf, type MapsEntry, type ReadMappings } from "../kernel/maps.ts";
import { makeMemoryFile } from "../kernel/memory-file.ts";
import { canScan } from "../kernel/pagemap.ts";
import { canPuppet, Puppet } from "../kernel/puppet.ts";
import { mappedFile, SHARED_MEMORY_NAME, type SharedObject } from "../kernel/shared-objects.ts";
import type { ShowDecoy } from "./lazy-dump.ts";
import { OWN_PAGE } from "./page-decoy.ts";

const PAGE_BYTES = 4096;

/** A mapping as a decoy shows it. */
interface Shown {
  readonly mapping: MapsEntry;
  /** How the file is open, as the permissions of its link tell. */
  readonly mode: number;
  /** Whether it is an empty file in place of shared memory. */
  readonly isEmpty: boolean;
}

/** The decoy of one task. Disposing of it ends it. */
class FileDecoy implements Disposable {
  readonly #puppet: Puppet;
  readonly #shown = new Map<number, Shown>();

  private constructor(puppet: Puppet) {
    this.#puppet = puppet;
  }

  /** Makes one that shows nothing. Throws KERNEL. */
  static async begin(): Promise<FileDecoy> {
    return new FileDecoy(await Puppet.begin(OWN_PAGE));
  }

  get pid(): number {
    return this.#puppet.pid;
  }

  /**
   * Shows what a task has mapped now. Throws KERNEL, or as node:fs does, if it can't: what is mapped can't be opened, or is no file.
   * @param empty the files in place of shared memory, by its inode
   */
  async show(pid: number, empty: ReadonlyMap<bigint, number>, read: ReadMappings): Promise<void> {
    const wanted = filesOf(pid, read(pid), empty);
    for (const [start, shown] of this.#shown) {
      if (isSame(wanted.get(start), shown)) continue;
      await this.#puppet.unmap(shown.mapping);
      this.#shown.delete(start);
    }
    for (const [start, shown] of wanted) {
      if (this.#shown.has(start)) continue;
      await this.#map(pid, shown, empty);
      this.#shown.set(start, shown);
    }
  }

  async #map(pid: number, { mapping, mode }: Shown, empty: ReadonlyMap<bigint, number>): Promise<void> {
    if (mapping.start < OWN_PAGE + PAGE_BYTES) throw new DmigrateError("KERNEL", `Process ${pid} maps a file at the lowest addresses`);
    const inPlace = empty.get(mapping.inode);
    const file = inPlace === undefined ? mappedFile(pid, mapping) : `/proc/self/fd/${inPlace}`;
    const fd = openMapped(file, mode);
    try {
      await this.#puppet.map(mapping, fd, mapping.offset);
    } finally {
      fs.closeSync(fd);
    }
  }

  [Symbol.dispose](): void {
    this.#puppet[Symbol.dispose]();
  }
}

/** The decoys of those tasks that share memory. Disposing of it ends them. */
export class FileDecoys implements Disposable {
  readonly #decoys = new Map<number, FileDecoy>();
  /** The files in place of shared memory, by its inode. */
  readonly #empty = new Map<bigint, number>();
  readonly #show: ShowDecoy;

  /** Whether this processor and this kernel can do it. Without, CRIU dumps shared memory. */
  static get isPossible(): boolean {
    return canPuppet() && canScan();
  }

  /** @param show has the dump see the files of a decoy as those of a task */
  constructor(show: ShowDecoy) {
    this.#show = show;
  }

  /** Makes decoys for tasks that still run, as far as that can be: `update` makes up for it. */
  async prepare(objects: ReadonlyMap<bigint, SharedObject>): Promise<void> {
    await this.#begin(objects, mappingsOf);
  }

  /**
   * Brings the decoys up to date with the tasks, which are frozen now. Throws DUMP_FAILED if one can't be.
   * @param pids of all tasks
   * @param objects shared memory that CRIU is to find empty
   * @param read reads the mappings of tasks
   * @returns those of them that it will: what a task maps that has no decoy, CRIU dumps
   */
  async update(
    pids: ReadonlySet<number>,
    objects: ReadonlyMap<bigint, SharedObject>,
    read: ReadMappings = mappingsOf,
  ): Promise<ReadonlyMap<bigint, SharedObject>> {
    await this.#begin(objects, read);
    const hidden = new Map([...objects].filter(([, { mappings }]) => mappings.every(({ pid }) => this.#decoys.has(pid))));
    const empty = new Map([...this.#empty].filter(([inode]) => hidden.has(inode)));
    for (const [pid, decoy] of this.#decoys) {
      if (!pids.has(pid)) continue; // it has ended
      try {
        await decoy.show(pid, empty, read);
      } catch (error) {
        const text = `What process ${pid} of the container has mapped by now can't be shown to CRIU (${messageOf(error)}); migrate again`;
        throw new DmigrateError("DUMP_FAILED", text, error);
      }
    }
    return hidden;
  }

  /** Makes the decoys that are missing, as far as that can be. */
  async #begin(objects: ReadonlyMap<bigint, SharedObject>, read: ReadMappings): Promise<void> {
    for (const { inode, mappings } of objects.values()) {
      if (this.#empty.has(inode)) continue;
      const file = ifPossible(() => emptyLike(fs.statSync(mappedFile(mappings[0].pid, mappings[0].mapping))));
      if (file !== undefined) this.#empty.set(inode, file);
    }
    for (const pid of new Set([...objects.values()].flatMap(({ mappings }) => mappings.map((each) => each.pid)))) {
      if (this.#decoys.has(pid)) continue;
      using made = new DisposableStack();
      const decoy = made.use(await FileDecoy.begin());
      try {
        await decoy.show(pid, this.#empty, read);
      } catch {
        continue; // it has ended, or changes what it maps just now, or maps something that can't be shown
      }
      made.move();
      this.#decoys.set(pid, decoy);
      this.#show("map_files", decoy.pid, pid);
    }
  }

  [Symbol.dispose](): void {
    for (const decoy of this.#decoys.values()) decoy[Symbol.dispose]();
    for (const file of this.#empty.values()) fs.closeSync(file);
    this.#decoys.clear();
    this.#empty.clear();
  }
}

/** Of anonymous memory. A file may have the inode 0: the first SysV segment of a namespace has. */
const NO_DEVICE = "00:00";

/** The mapped files of a process by where they begin. */
function filesOf(pid: number, mappings: readonly MapsEntry[], empty: ReadonlyMap<bigint, number>): Map<number, Shown> {
  const shown = new Map<number, Shown>();
  for (const mapping of mappings) {
    const { start, inode, device } = mapping;
    if (device !== NO_DEVICE) shown.set(start, { mapping, mode: modeOf(pid, mapping), isEmpty: empty.has(inode) });
  }
  return shown;
}

/** How a file is open. Whether one that is mapped privately may be written means nothing to its mapping. */
function modeOf(pid: number, mapping: MapsEntry): number {
  return mapping.shared ? fs.lstatSync(mappedFile(pid, mapping)).mode & 0o600 : 0o400;
}

function isSame(one: Shown | undefined, other: Shown | undefined): boolean {
  if (one === undefined || other === undefined) return false;
  if (one.mode !== other.mode || one.isEmpty !== other.isEmpty) return false;
  const [a, b] = [one.mapping, other.mapping];
  return a.end === b.end && a.offset === b.offset && a.device === b.device && a.inode === b.inode;
}

/** Opens a mapped file as it is open. Throws KERNEL if it is none, or can't be opened so. */
function openMapped(file: string, mode: number): number {
  if (!fs.statSync(file).isFile() || (mode & 0o400) === 0)
    throw new DmigrateError("KERNEL", `${file} is mapped and no file that can be read`);
  const { O_NONBLOCK, O_RDONLY, O_RDWR } = fs.constants;
  return fs.openSync(file, O_NONBLOCK | ((mode & 0o200) === 0 ? O_RDONLY : O_RDWR)); // a lease that somebody has on it is not waited for
}

/** An empty file in memory that CRIU can't tell from another one. */
function emptyLike({ size, uid, gid, mode }: fs.Stats): number {
  const file = makeMemoryFile(SHARED_MEMORY_NAME);
  fs.ftruncateSync(file, size);
  fs.fchownSync(file, uid, gid);
  fs.fchmodSync(file, mode & 0o7777);
  return file;
}

/** undefined if what it is about has gone. */
function ifPossible<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch {
    return undefined;
  }
}
