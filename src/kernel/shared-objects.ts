/**
 * Memory that processes share by having been forked: anonymous shared mappings (mmap(2), MAP_SHARED and MAP_ANONYMOUS), as databases have
 * for their buffers. The kernel keeps each as a file in memory that no name and no descriptor leads to.
 */
import { closeSync, fstatSync, readdirSync, readFileSync, readlinkSync, statSync, type Stats } from "node:fs";
import { mappingsOf, type MapsEntry, type ReadMappings } from "./maps.ts";
import { makeMemoryFile } from "./memory-file.ts";
import { hasUnseenWriters } from "./unseen-writers.ts";

/** What a memory file is called that takes the place of one. */
export const SHARED_MEMORY_NAME = "dev/zero";
/** What /proc/PID/maps calls it, what if it has been restored from what was copied ahead, and what if by CRIU alone. */
const PATHS: ReadonlySet<string> = new Set(["/dev/zero (deleted)", `/memfd:${SHARED_MEMORY_NAME} (deleted)`, "/memfd:/dev/zero (deleted)"]);

/** A mapping of a process. */
export interface SharedMapping {
  readonly pid: number;
  readonly mapping: MapsEntry;
}

/** One piece of such memory, as it is mapped; the first mapping is a task's that was asked for first. */
export interface SharedObject {
  /** Tells it from others as long as it is mapped. */
  readonly inode: bigint;
  readonly mappings: readonly [SharedMapping, ...SharedMapping[]];
}

/**
 * All that these processes share so and nothing but their own mappings leads to; one that has ended is passed over. Left out is what one of
 * them has a descriptor of, maps privately, has perhaps locked (mlock(2)), or may have written by asynchronous I/O.
 */
export function sharedObjectsOf(pids: Iterable<number>, read: ReadMappings = mappingsOf): Map<bigint, SharedObject> {
  const objects = new Map<bigint, SharedObject>();
  const excluded = new Set<bigint>();
  const all = [...pids];
  for (const pid of all) {
    const mappings = unlessEnded(() => read(pid).filter(isAnonymousShared)) ?? [];
    const isUnfit = mappings.length > 0 && unlessEnded(() => hasUnseenWriters(pid) || hasLocked(pid)) === true;
    for (const mapping of mappings) {
      const { inode, shared } = mapping;
      if (!shared || isUnfit) excluded.add(inode);
      const others = objects.get(inode)?.mappings;
      objects.set(inode, { inode, mappings: others === undefined ? [{ pid, mapping }] : [...others, { pid, mapping }] });
    }
  }
  if (objects.size > 0) {
    for (const { inode } of all.flatMap((pid) => descriptorsIn(pid, (target) => PATHS.has(target)))) excluded.add(inode);
  }
  for (const inode of excluded) objects.delete(inode);
  return objects;
}

/** Where a mapped file is opened as what it is, whatever names it has: for those who may (proc_pid_map_files(5)). */
export function mappedFile(pid: number, { start, end }: Pick<MapsEntry, "start" | "end">): string {
  return `/proc/${pid}/map_files/${start.toString(16)}-${end.toString(16)}`;
}

/**
 * Paths by which whatever these processes share in memory that has no name can be opened, by inodes: memfd_create(2), shmget(2), and
 * anonymous mappings. A process that has ended is passed over. Left out are huge pages, which are files of another file system.
 */
export function memoryFilesOf(pids: Iterable<number>): Map<bigint, string> {
  const files = new Map<bigint, string>();
  for (const pid of pids) {
    const mappings = unlessEnded(() => mappingsOf(pid)) ?? [];
    for (const mapping of mappings)
      if (mapping.shared && mapping.device === memoryDevice.name) files.set(mapping.inode, mappedFile(pid, mapping));
    for (const { path, inode } of descriptorsIn(pid, (target) => target.startsWith("/memfd:"))) files.set(inode, path);
  }
  return files;
}

/** The file system in which the kernel keeps memory that has no name, and how /proc/PID/maps names it. It has the major number 0. */
const memoryDevice = ((): { readonly device: number; readonly name: string } => {
  const fd = makeMemoryFile("dmigrate");
  try {
    const { dev } = fstatSync(fd);
    return { device: dev, name: `00:${dev.toString(16).padStart(2, "0")}` };
  } finally {
    closeSync(fd);
  }
})();

function isAnonymousShared({ device, path }: MapsEntry): boolean {
  return PATHS.has(path) && device === memoryDevice.name;
}

function hasLocked(pid: number): boolean {
  return /^VmLck:\s+[1-9]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
}

/** What a process has open in that file system, of what its links lead to. */
function descriptorsIn(pid: number, isWanted: (target: string) => boolean): { readonly path: string; readonly inode: bigint }[] {
  const folder = `/proc/${pid}/fd`;
  const names = unlessEnded(() => readdirSync(folder)) ?? [];
  return names.flatMap((name) => {
    const path = `${folder}/${name}`;
    if (!isWanted(unlessEnded(() => readlinkSync(path)) ?? "")) return [];
    const stat = unlessEnded((): Stats => statSync(path));
    return stat?.dev === memoryDevice.device ? [{ path, inode: BigInt(stat.ino) }] : [];
  });
}

/** What `look` returns, or undefined if what it looks at has gone. */
function unlessEnded<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (error) {
    if (error instanceof Error && "code" in error && (error.code === "ENOENT" || error.code === "ESRCH")) return undefined;
    throw error;
  }
}
