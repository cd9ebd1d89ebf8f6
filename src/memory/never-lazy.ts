/**
 * Memory that can't come after the handover, and that CRIU therefore dumps whatever the mode: files in memory, with names and without, and
 * private pages of file mappings, locked and huge ones. Read here while the container runs, in the order in which CRIU dumps it.
 */
import { closeSync, constants, fstatSync, openSync, readFileSync, readSync, statfsSync } from "node:fs";
import { failedWith } from "../kernel/libc.ts";
import { lockedMappingsOf, mappingsOf } from "../kernel/maps.ts";
import { Pagemap, type AddressRange } from "../kernel/pagemap.ts";
import { readMemory } from "../kernel/process-memory.ts";
import { memoryFilesOf } from "../kernel/shared-objects.ts";
import { dataExtents } from "../kernel/sparse.ts";
import { filesIn, tmpfsOf, type Tmpfs } from "../kernel/tmpfs.ts";
import { PIECE_BYTES } from "./known-content.ts";
import { PAGE_BYTES } from "./page-protocol.ts";

/** The private pages of a process that can't be lazy. */
interface PrivatePages {
  readonly pid: number;
  readonly ranges: readonly AddressRange[];
}

/** Where it is, as it was looked at. */
export interface NeverLazy {
  /** How much it is, about. */
  readonly byteCount: number;
  /** Files without a name, by paths that lead to them. */
  readonly files: readonly string[];
  readonly mounts: readonly Tmpfs[];
  readonly pages: readonly PrivatePages[];
}

/** What a file without a name is opened with: it must not block if it has become another one. */
const OPEN_FLAGS = constants.O_RDONLY | constants.O_NONBLOCK;
const BLOCK_BYTES = 512; // of st_blocks
const LOCKED = /^(VmLck|HugetlbPages):\s+[1-9]/m;

/**
 * Finds it; what has ended meanwhile is passed over. Throws KERNEL.
 * @param pids of the container's tasks
 * @param initPid of its first one
 * @param except inodes of files without a name that cross otherwise
 */
export function findNeverLazy(pids: readonly number[], initPid: number, except: { has(inode: bigint): boolean }): NeverLazy {
  const files = [...memoryFilesOf(pids)].filter(([inode]) => !except.has(inode)).map(([, path]) => path);
  const mounts = unlessGone(() => tmpfsOf(initPid)) ?? [];
  const pages = pids.flatMap((pid) => unlessGone(() => privatePagesOf(pid)) ?? []);
  const byteCount =
    sum(files.map((path) => withFile(path, (fd) => fstatSync(fd).blocks * BLOCK_BYTES) ?? 0)) +
    sum(mounts.map(({ folder }) => unlessGone(() => usedBytes(folder)) ?? 0)) +
    sum(pages.flatMap(({ ranges }) => ranges.map(({ start, end }) => end - start)));
  return { byteCount, files, mounts, pages };
}

/**
 * Reads it, whole pages, in pieces that are as long as can be but at the end of each file and process. A piece is valid until the next one
 * is asked for. What has gone is passed over. Throws KERNEL.
 */
export async function* readNeverLazy({ files, mounts, pages }: NeverLazy): AsyncGenerator<Uint8Array, void> {
  const buffer = Buffer.allocUnsafeSlow(PIECE_BYTES);
  for (const path of files) {
    const fd = open(path);
    if (fd === undefined) continue;
    try {
      yield* readFile(fd, buffer);
    } finally {
      closeSync(fd);
    }
  }
  for (const mount of mounts) for await (const fd of filesIn(mount)) yield* readFile(fd, buffer);
  for (const { pid, ranges } of pages) yield* read(ranges, buffer, (into, at) => readTask(pid, into, at));
}

/** Holes are left out, as CRIU and tar leave them out, and what of the last page there is. */
function* readFile(fd: number, buffer: Buffer): Generator<Uint8Array, void> {
  const { size } = fstatSync(fd);
  yield* read(dataExtents(fd, size - (size % PAGE_BYTES)), buffer, (into, at) => readSync(fd, into, 0, into.length, at));
}

/** Reads what is in ranges, one behind the other. In place of what can't be read is whatever the buffer had: nobody will ask for it. */
function* read(ranges: Iterable<AddressRange>, buffer: Buffer, readAt: (into: Buffer, at: number) => number): Generator<Uint8Array, void> {
  let filled = 0;
  for (const { start, end } of ranges) {
    for (let at = start; at < end;) {
      const length = Math.min(end - at, buffer.length - filled);
      readAt(buffer.subarray(filled, filled + length), at);
      at += length;
      filled += length;
      if (filled < buffer.length) continue;
      yield buffer;
      filled = 0;
    }
  }
  if (filled > 0) yield buffer.subarray(0, filled);
}

/** Throws KERNEL only if it has not ended. */
function readTask(pid: number, into: Buffer, address: number): number {
  return unlessGone(() => readMemory(pid, address, into)) ?? 0;
}

/** Throws ENOENT or ESRCH if it has ended. */
function privatePagesOf(pid: number): PrivatePages {
  const eager = mappingsOf(pid).filter(({ shared, inode }) => !shared && inode !== 0n);
  const hasLocked = LOCKED.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  const locked = hasLocked ? lockedMappingsOf(pid).filter(({ shared, inode }) => !shared && inode === 0n) : [];
  using pagemap = new Pagemap(pid);
  const present = pagemap.scans
    ? (range: AddressRange) => pagemap.present(range)
    : (range: AddressRange) => pagemap.presentByReading(range);
  const ranges = [...eager, ...locked].toSorted((a, b) => a.start - b.start).flatMap(present);
  return { pid, ranges };
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((all, each) => all + each, 0);
}

function usedBytes(mountPoint: string): number {
  const { blocks, bfree, bsize } = statfsSync(mountPoint);
  return (blocks - bfree) * bsize;
}

function withFile<T>(path: string, look: (fd: number) => T): T | undefined {
  const fd = open(path);
  if (fd === undefined) return undefined;
  try {
    return look(fd);
  } finally {
    closeSync(fd);
  }
}

function open(path: string): number | undefined {
  try {
    return openSync(path, OPEN_FLAGS);
  } catch {
    return undefined; // its process has ended, or given it up
  }
}

/** What `look` returns, or undefined if what it looks at has gone. */
function unlessGone<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (error) {
    const isGone = error instanceof Error && "code" in error && (error.code === "ENOENT" || error.code === "ESRCH");
    if (isGone || failedWith("ESRCH", error)) return undefined;
    throw error;
  }
}
