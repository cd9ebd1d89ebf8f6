/**
 * Doing what the frames of a round say, to a tree on this host.
 *
 * The frames are the peer's: no name in them leads out of the tree, since every directory on the way is opened below the root without
 * following links, and nothing that is there already is opened unless it is a regular file.
 */
import { closeSync, constants, ftruncateSync, write, writeSync } from "node:fs";
import { promisify } from "node:util";
import { DmigrateError } from "../core/errors.ts";
import {
  changeModeAt,
  changeOwnerAt,
  linkAt,
  makeDirectoryAt,
  makeNodeAt,
  makeSymlinkAt,
  openBeneath,
  O_PATH,
  setModifiedAt,
  statAt,
} from "../kernel/files.ts";
import { punchHole } from "../kernel/sparse.ts";
import { listXattrsAt, removeXattrAt, setXattrAt } from "../kernel/xattr.ts";
import { SMALL_BYTES } from "./batches.ts";
import { CHUNK_BYTES, type Frame, type Piece } from "./codec.ts";
import { chunkCount, chunkHash, chunkLength, type Content } from "./content.ts";
import { fileError } from "./errors.ts";
import { toHost, type IdMap } from "./id-map.ts";
import { HOST_XATTR, ROOT, modeOf, showPath, splitPath, typeOfMode, type BytePath, type Inode } from "./inode.ts";
import { clearDirectory, removeTree } from "./remove.ts";
import { openRoot } from "./scan.ts";

/** Frames that change the tree. */
export type TreeFrame = Exclude<Frame, { readonly frame: "digests" | "end" }>;

type Put = Extract<Frame, { readonly frame: "put" }>;
type Chunk = Extract<Frame, { readonly frame: "chunk" }>;

/** The file whose chunks are coming. */
interface OpenFile {
  readonly path: BytePath;
  readonly inode: Inode;
  readonly directory: number;
  readonly name: string;
  readonly fd: number;
  readonly size: number;
  readonly content: Content;
  /** It had nothing before. */
  readonly fresh: boolean;
  /** Where its data ends so far. */
  end: number;
}

const writeAsync = promisify(write);
const ZEROS = Buffer.alloc(CHUNK_BYTES);

/** Applies one round. Nobody else may write to the tree meanwhile. Every method throws ROOTFS, NO_SPACE, or PROTOCOL at what no source sends. */
export class TreeWriter implements Disposable {
  /** Files that this round gave a content. */
  readonly written = new Set<BytePath>();
  readonly #root: number;
  readonly #contents: Map<BytePath, Content>;
  readonly #ids: IdMap | undefined;
  /** The directory that the last frame was about, kept open. */
  #directory: { readonly path: BytePath; readonly fd: number } | undefined;
  #file: OpenFile | undefined;
  /** What the times of directories must be in the end, since changes below move them. */
  readonly #directoryTimes = new Map<BytePath, bigint>();

  /** @param contents what the tree's files hold; kept up to date */
  constructor(root: string, contents: Map<BytePath, Content>, ids: IdMap | undefined) {
    this.#root = openRoot(root);
    this.#contents = contents;
    this.#ids = ids;
  }

  /** Applies a frame. If it returns a promise, the next one must wait for it. */
  apply(frame: TreeFrame): Promise<void> | undefined {
    const path = "path" in frame ? frame.path : (this.#file?.path ?? ROOT);
    try {
      return this.#apply(frame)?.catch((error: unknown) => {
        throw fileError("write", path, error);
      });
    } catch (error) {
      throw fileError("write", path, error);
    }
  }

  /** Must be called after the last frame. */
  finish(): void {
    try {
      this.#closeFile();
      this.#setDirectoryTimes();
    } catch (error) {
      throw fileError("write", ROOT, error);
    }
  }

  [Symbol.dispose](): void {
    if (this.#file !== undefined) closeSync(this.#file.fd);
    this.#closeDirectory();
    closeSync(this.#root);
  }

  #apply(frame: TreeFrame): Promise<void> | undefined {
    if (frame.frame === "chunk") return this.#chunk(frame);
    this.#closeFile();
    switch (frame.frame) {
      case "remove":
        this.#remove(frame.path);
        return undefined;
      case "link":
        this.#link(frame.path, frame.to);
        return undefined;
      case "put":
        this.#put(this.#ids === undefined ? frame : { ...frame, inode: toHost(frame.inode, this.#ids) });
        return undefined;
    }
  }

  #remove(path: BytePath): void {
    const { directory, name } = splitPath(path);
    const parent = this.#open(directory);
    if (parent !== undefined) this.#clear(directory, parent, name);
  }

  #link(path: BytePath, to: BytePath): void {
    const { directory, name } = splitPath(path);
    const source = splitPath(to);
    const parent = this.#parent(path, directory);
    const other = openBeneath(this.#root, source.directory, constants.O_DIRECTORY | O_PATH);
    if (other === undefined) throw outOfPlace(to);
    try {
      const stat = statAt(other, source.name);
      if (stat === undefined || typeOfMode(stat.mode) === "directory" || path === to) throw outOfPlace(to);
      this.#clear(directory, parent, name);
      this.#touch(directory, parent);
      linkAt(other, source.name, this.#parent(path, directory), name);
    } finally {
      closeSync(other);
    }
    this.#contents.delete(path);
  }

  #put({ path, inode, fresh }: Put): void {
    if (path === ROOT) {
      this.#putRoot(inode, fresh);
      return;
    }
    const { directory, name } = splitPath(path);
    const parent = this.#parent(path, directory);
    if (inode.kind.type === "directory") this.#putDirectory(path, directory, parent, name, inode, fresh);
    else if (inode.kind.type === "file") this.#openFile(path, directory, parent, name, inode, inode.kind.size, fresh);
    else this.#putSpecial(directory, parent, name, inode);
  }

  #putRoot(inode: Inode, fresh: boolean): void {
    if (inode.kind.type !== "directory") throw outOfPlace(ROOT);
    this.#closeDirectory(); // it may be among what goes
    if (fresh) clearDirectory(this.#root);
    setAttributes(this.#root, ".", inode);
    this.#directoryTimes.set(ROOT, inode.mtimeNs);
  }

  #putDirectory(path: BytePath, directory: BytePath, parent: number, name: string, inode: Inode, fresh: boolean): void {
    const stat = statAt(parent, name);
    const isThere = stat !== undefined && typeOfMode(stat.mode) === "directory" && !fresh;
    if (!isThere) {
      this.#clear(directory, parent, name);
      this.#touch(directory, parent);
      makeDirectoryAt(parent, name, 0o700);
    }
    setAttributes(parent, name, inode);
    this.#directoryTimes.set(path, inode.mtimeNs);
  }

  #putSpecial(directory: BytePath, parent: number, name: string, inode: Inode): void {
    this.#clear(directory, parent, name);
    this.#touch(directory, parent);
    if (inode.kind.type === "symlink") makeSymlinkAt(parent, name, inode.kind.target);
    else makeNodeAt(parent, name, modeOf(inode), "major" in inode.kind ? inode.kind : NO_DEVICE);
    setAttributes(parent, name, inode);
    setModifiedAt(parent, name, inode.mtimeNs);
  }

  // oxlint-disable-next-line max-params
  #openFile(path: BytePath, directory: BytePath, parent: number, name: string, inode: Inode, size: number, fresh: boolean): void {
    const fd = fresh ? this.#create(directory, parent, name) : openExisting(parent, name, path);
    const content = (fresh ? undefined : this.#contents.get(path)) ?? new Map();
    this.#file = { path, inode, directory: parent, name, fd, size, content, fresh, end: 0 };
    this.#contents.set(path, content);
    this.written.add(path);
    if (fresh) return;
    ftruncateSync(fd, size);
    for (const index of content.keys()) if (index >= chunkCount(size)) content.delete(index);
  }

  #create(directory: BytePath, parent: number, name: string): number {
    this.#touch(directory, parent);
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;
    const created = openBeneath(parent, name, flags, 0o600);
    if (created !== undefined) return created;
    this.#clear(directory, parent, name);
    const fd = openBeneath(parent, name, flags, 0o600);
    if (fd === undefined) throw outOfPlace(name);
    return fd;
  }

  #chunk({ index, pieces, data }: Chunk): Promise<void> | undefined {
    const file = this.#file;
    if (file === undefined || index >= chunkCount(file.size)) throw outOfPlace(file?.path ?? ROOT);
    const start = index * CHUNK_BYTES;
    const length = chunkLength(file.size, index);
    const dataEnd = pieces.reduce((_, piece) => piece.offset + piece.length, 0);
    if (dataEnd > length) throw outOfPlace(file.path);
    if (!file.fresh && data.length < length) makeZeros(file.fd, start, length);
    file.end = Math.max(file.end, start + dataEnd);
    const written = data.length <= SMALL_BYTES ? writeSmall(file.fd, start, pieces, data) : writeLarge(file.fd, start, pieces, data);
    const hash = chunkHash(pieces, data, length);
    if (hash === undefined) file.content.delete(index);
    else file.content.set(index, hash);
    return written;
  }

  #closeFile(): void {
    const file = this.#file;
    if (file === undefined) return;
    this.#file = undefined;
    try {
      if (file.fresh && file.end < file.size) ftruncateSync(file.fd, file.size);
    } finally {
      closeSync(file.fd);
    }
    setAttributes(file.directory, file.name, file.inode);
    setModifiedAt(file.directory, file.name, file.inode.mtimeNs);
  }

  /** Removes what has this name, if anything. */
  #clear(directory: BytePath, parent: number, name: string): void {
    if (statAt(parent, name) === undefined) return;
    this.#touch(directory, parent);
    removeTree(parent, name);
  }

  #parent(path: BytePath, directory: BytePath): number {
    const fd = this.#open(directory);
    if (fd === undefined) throw outOfPlace(path);
    return fd;
  }

  /** Opens a directory of the tree; undefined if it is none or is reached only through a link. */
  #open(path: BytePath): number | undefined {
    if (this.#directory?.path === path) return this.#directory.fd;
    this.#closeDirectory();
    const fd = openBeneath(this.#root, path, constants.O_DIRECTORY | O_PATH);
    if (fd !== undefined) this.#directory = { path, fd };
    return fd;
  }

  #closeDirectory(): void {
    if (this.#directory !== undefined) closeSync(this.#directory.fd);
    this.#directory = undefined;
  }

  /** Called before anything in a directory changes. */
  #touch(path: BytePath, directory: number): void {
    if (this.#directoryTimes.has(path)) return;
    const stat = statAt(directory, "");
    if (stat !== undefined) this.#directoryTimes.set(path, stat.mtimeNs);
  }

  #setDirectoryTimes(): void {
    for (const [path, mtimeNs] of this.#directoryTimes) {
      const directory = this.#open(path); // undefined: it was removed later in the round
      if (directory !== undefined) setModifiedAt(directory, ".", mtimeNs);
    }
  }
}

const NO_DEVICE = { major: 0, minor: 0 };

function openExisting(parent: number, name: string, path: BytePath): number {
  const stat = statAt(parent, name);
  if (stat === undefined || typeOfMode(stat.mode) !== "file") throw outOfPlace(path);
  const fd = openBeneath(parent, name, constants.O_WRONLY);
  if (fd === undefined) throw outOfPlace(path);
  return fd;
}

function makeZeros(fd: number, start: number, length: number): void {
  if (!punchHole(fd, start, length)) writeSync(fd, ZEROS, 0, length, start);
}

function writeSmall(fd: number, start: number, pieces: readonly Piece[], data: Uint8Array): undefined {
  let at = 0;
  for (const { offset, length } of pieces) {
    for (let done = 0; done < length;) done += writeSync(fd, data, at + done, length - done, start + offset + done);
    at += length;
  }
}

async function writeLarge(fd: number, start: number, pieces: readonly Piece[], data: Uint8Array): Promise<void> {
  let at = 0;
  for (const { offset, length } of pieces) {
    for (let done = 0; done < length;) {
      const { bytesWritten } = await writeAsync(fd, data, at + done, length - done, start + offset + done);
      done += bytesWritten;
    }
    at += length;
  }
}

/** Sets everything but the time. The order matters: a change of the owner takes set-uid bits and capabilities away. */
function setAttributes(directory: number, name: string, inode: Inode): void {
  changeOwnerAt(directory, name, inode.uid, inode.gid);
  const wanted = new Set(inode.xattrs.map((xattr) => xattr.name));
  for (const present of listXattrsAt(directory, name) ?? []) {
    if (present !== HOST_XATTR && !wanted.has(present)) removeXattrAt(directory, name, present);
  }
  for (const xattr of inode.xattrs) setXattrAt(directory, name, xattr.name, xattr.value);
  if (inode.kind.type !== "symlink") changeModeAt(directory, name, inode.permissions);
}

function outOfPlace(path: string): DmigrateError {
  return new DmigrateError("PROTOCOL", `The stream of files does not fit the tree at ${showPath(path)}; begin the migration anew`);
}
