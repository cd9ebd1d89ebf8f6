/**
 * Walking a tree on the disk: everything the kernel knows of it but the files' content.
 */
import { closeSync, constants, openSync } from "node:fs";
import { DmigrateError } from "../core/errors.ts";
import { namesIn, openBeneath, readLinkAt, statAt, type FileStat } from "../kernel/files.ts";
import { getXattrAt, listXattrsAt } from "../kernel/xattr.ts";
import { fileError } from "./errors.ts";
import { ROOT, childPath, isPortableXattr, permissionsOfMode, showPath, typeOfMode } from "./inode.ts";
import type { BytePath, FileKind, Inode, Xattr } from "./inode.ts";
import { Slices } from "./slices.ts";
import { byName, upperAttributes } from "./upper.ts";

/** A tree of files on this host. */
export interface Tree {
  /** `upper`: an overlay's upper directory, read as it lies on the disk. `plain`: any other directory, such as a volume's. */
  readonly kind: "upper" | "plain";
  /** Absolute path of its root. */
  readonly root: string;
}

/** What a name in a tree was when it was looked at. */
export interface Entry extends Inode {
  readonly atimeNs: bigint;
  readonly inodeNumber: bigint;
  readonly filesystem: number;
  readonly ctimeNs: bigint;
  /** Bytes on the disk. */
  readonly allocated: number;
  /** A file's other name that came before this one in the walk. */
  readonly linkOf: BytePath | undefined;
  /** False if it may have changed again since without a change of its times: it must be looked at again. */
  readonly settled: boolean;
}

/** A tree as one walk found it. */
export interface Snapshot {
  /** In the order of the walk, which is the same for equal trees: a directory, what is in it but directories, then those, each by name. */
  readonly entries: Map<BytePath, Entry>;
  /** Names of lower layers that the tree hides. */
  readonly whiteouts: Set<BytePath>;
}

const TICK_NS = 20_000_000n;
const COARSE_TICK_NS = 2_000_000_000n;

/** True if no change after `nowNs` can have the time `ctimeNs`: kernels before 6.13 tell time in ticks of up to 10 ms, some in seconds. */
export function isSettled(ctimeNs: bigint, nowNs: bigint): boolean {
  return ctimeNs < nowNs - (ctimeNs % 1_000_000_000n === 0n ? COARSE_TICK_NS : TICK_NS);
}

/**
 * Walks a tree. Entries that have not changed since `previous` are the same objects. What vanishes meanwhile is left out.
 * Throws ROOTFS if the root is not there or something in it can't be copied.
 */
export async function scan(tree: Tree, previous?: Snapshot, slices = new Slices()): Promise<Snapshot> {
  const root = openRoot(tree.root);
  try {
    const walk = new Walk(tree.kind, root, previous);
    for (const _ of walk.visits()) if (slices.over) await slices.next();
    return walk;
  } finally {
    closeSync(root);
  }
}

/** Opens a tree's root. Throws ROOTFS. */
export function openRoot(path: string): number {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (error) {
    throw new DmigrateError("ROOTFS", `Cannot open the directory ${path}; check that the container's storage is mounted`, error);
  }
}

class Walk implements Snapshot {
  readonly entries = new Map<BytePath, Entry>();
  readonly whiteouts = new Set<BytePath>();
  readonly #kind: Tree["kind"];
  readonly #root: number;
  readonly #previous: Snapshot | undefined;
  readonly #beganAtNs = BigInt(Date.now()) * 1_000_000n;
  /** Last first. */
  readonly #pending: BytePath[] = [ROOT];
  readonly #firstNames = new Map<string, BytePath>();

  constructor(kind: Tree["kind"], root: number, previous: Snapshot | undefined) {
    this.#kind = kind;
    this.#root = root;
    this.#previous = previous;
  }

  /** Visits everything, and stops after each name. */
  *visits(): Generator<void, void> {
    for (let next = this.#pending.pop(); next !== undefined; next = this.#pending.pop()) {
      const fd = openBeneath(this.#root, next, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOATIME);
      if (fd === undefined) continue;
      try {
        yield* this.#directory(fd, next);
      } catch (error) {
        throw fileError("read", next, error);
      } finally {
        closeSync(fd);
      }
    }
  }

  *#directory(fd: number, path: BytePath): Generator<void, void> {
    const stat = statAt(fd, "");
    const entry = stat && this.#entry(fd, ".", path, stat);
    if (entry?.kind.type !== "directory") return;
    this.entries.set(path, entry);
    const directories: BytePath[] = [];
    for (const name of namesIn(fd).toSorted()) {
      yield;
      const child = childPath(path, name);
      const childStat = statAt(fd, name);
      if (childStat === undefined) continue;
      if (typeOfMode(childStat.mode) === "directory") directories.push(child);
      else this.#file(fd, name, child, childStat);
    }
    for (const each of directories.toReversed()) this.#pending.push(each);
  }

  #file(directory: number, name: string, path: BytePath, stat: FileStat): void {
    if (this.#kind === "upper" && isWhiteoutDevice(stat)) {
      this.whiteouts.add(path);
      return;
    }
    const entry = this.#entry(directory, name, path, stat);
    if (entry === undefined) return;
    this.entries.set(path, entry);
    if (stat.linkCount > 1 && entry.linkOf === undefined) this.#firstNames.set(identity(stat), path);
  }

  /** Undefined if the name vanished or is a whiteout. Called with "." for a directory that is open itself. */
  #entry(directory: number, name: string, path: BytePath, stat: FileStat): Entry | undefined {
    const linkOf = name !== "." && stat.linkCount > 1 ? this.#firstNames.get(identity(stat)) : undefined;
    const known = this.#previous?.entries.get(path);
    if (known?.settled === true && isUnchanged(known, stat) && known.linkOf === linkOf) return known;
    const raw = readXattrs(directory, name);
    if (raw === undefined) return undefined;
    const { xattrs, opaque, whiteout } =
      this.#kind === "upper" ? upperAttributes(path, raw) : { xattrs: raw, opaque: path === ROOT, whiteout: false };
    const kind = kindOf(directory, name, path, stat, opaque);
    if (whiteout && kind?.type === "file" && kind.size === 0) {
      this.whiteouts.add(path);
      return undefined;
    }
    if (kind === undefined) return undefined;
    return {
      kind,
      permissions: permissionsOfMode(stat.mode),
      uid: stat.uid,
      gid: stat.gid,
      mtimeNs: stat.mtimeNs,
      atimeNs: stat.atimeNs,
      xattrs,
      inodeNumber: stat.inodeNumber,
      filesystem: stat.filesystem,
      ctimeNs: stat.ctimeNs,
      allocated: stat.allocated,
      linkOf,
      settled: isSettled(stat.ctimeNs, this.#beganAtNs),
    };
  }
}

type Stamp = Pick<FileStat, "inodeNumber" | "filesystem" | "ctimeNs" | "mtimeNs">;

/** True if a file is still the one that was looked at, unchanged as far as its times tell. */
export function isUnchanged(entry: Entry, stat: Stamp): boolean {
  return (
    entry.inodeNumber === stat.inodeNumber &&
    entry.filesystem === stat.filesystem &&
    entry.ctimeNs === stat.ctimeNs &&
    entry.mtimeNs === stat.mtimeNs
  );
}

function identity(stat: FileStat): string {
  return `${stat.filesystem}:${stat.inodeNumber}`;
}

function isWhiteoutDevice(stat: FileStat): boolean {
  return typeOfMode(stat.mode) === "character-device" && stat.device.major === 0 && stat.device.minor === 0;
}

function kindOf(directory: number, name: string, path: BytePath, stat: FileStat, opaque: boolean): FileKind | undefined {
  const type = typeOfMode(stat.mode);
  switch (type) {
    case "directory":
      return { type, opaque };
    case "file":
      return { type, size: stat.size };
    case "symlink": {
      const target = readLinkAt(directory, name);
      return target === undefined ? undefined : { type, target };
    }
    case "character-device":
    case "block-device":
      return { type, major: stat.device.major, minor: stat.device.minor };
    case "fifo":
    case "socket":
      return { type };
    case undefined:
      throw new DmigrateError("ROOTFS", `Unknown type of file (mode ${stat.mode.toString(8)}): ${showPath(path)}; remove it`);
  }
}

const NO_XATTRS: readonly Xattr[] = [];

function readXattrs(directory: number, name: string): readonly Xattr[] | undefined {
  const names = listXattrsAt(directory, name);
  if (names === undefined || names.length === 0) return names && NO_XATTRS;
  const xattrs: Xattr[] = [];
  for (const attribute of names) {
    const value = isPortableXattr(attribute) ? getXattrAt(directory, name, attribute) : undefined;
    if (value !== undefined) xattrs.push({ name: attribute, value });
  }
  return xattrs.toSorted(byName);
}

/** What a tree takes. */
export interface TreeSize {
  readonly entries: number;
  /** Bytes of content that a copy must move: without holes, each file once. */
  readonly bytes: number;
  /** Bytes on this host's disk. */
  readonly diskBytes: number;
}

/** Measures a tree. Throws as `scan`. */
export async function measure(tree: Tree): Promise<TreeSize> {
  let [bytes, diskBytes] = [0, 0];
  const { entries } = await scan(tree);
  for (const { kind, allocated, linkOf } of entries.values()) {
    if (linkOf !== undefined) continue;
    diskBytes += allocated;
    if (kind.type === "file") bytes += Math.min(kind.size, allocated);
  }
  return { entries: entries.size, bytes, diskBytes };
}
