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
  setTimesAt,
  statAt,
} from "../kernel/files.ts";
import { punchHole } from "../kernel/sparse.ts";
import { listXattrsAt, removeXattrAt, setXattrAt } from "../kernel/xattr.ts";
import { SMALL_BYTES } from "./batches.ts";
import { CHUNK_BYTES, type Frame, type Piece } from "./codec.ts";
import { chunkCount, chunkHash, chunkLength, type Content } from "./content.ts";
import { fileError } from "./errors.ts";
import { toHost, type IdMap } from "./id-map.ts";
import { ROOT, isPortableXattr, modeOf, showPath, splitPath, typeOfMode, type BytePath, type Inode } from "./inode.ts";
import { clearDirectory, removeTree } from "./remove.ts";
import { openRoot, type Snapshot } from "./scan.ts";

/** Frames that change the tree. */
export type TreeFrame = Exclude<Frame, { readonly frame: "digests" | "end" }>;

type Put = Extract<Frame, { readonly frame: "put" }>;
type Chunk = Extract<Frame, { readonly frame: "chunk" }>;

/** A name in an open directory of the tree. */
interface Place {
  readonly path: BytePath;
  readonly directory: BytePath;
  /** The open directory. */
  readonly parent: number;
  readonly name: string;
}

/** The file whose chunks are coming. */
interface OpenFile {
  readonly place: Place;
  readonly inode: Inode;
  readonly atimeNs: bigint;
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

/** Applies one round. Nobody else may write to the tree meanwhile. All methods throw ROOTFS, NO_SPACE, PROTOCOL at what no source sends. */
export class TreeWriter implements Disposable {
  /** Files that have, by this round, the content they should; not those that somebody else had changed before. */
  readonly written = new Set<BytePath>();
  readonly #root: number;
  readonly #before: Snapshot | undefined;
  readonly #contents: Map<BytePath, Content>;
  readonly #ids: IdMap | undefined;
  /** The directory that the last frame was about, kept open. */
  #directory: { readonly path: BytePath; readonly fd: number } | undefined;
  #file: OpenFile | undefined;
  /** What the times of directories must be in the end, since changes below move them. */
  readonly #directoryTimes = new Map<BytePath, bigint>();

  /**
   * @param before the tree as the last round left it
   * @param contents what its files hold; kept up to date
   */
  constructor(root: string, before: Snapshot | undefined, contents: Map<BytePath, Content>, ids: IdMap | undefined) {
    this.#root = openRoot(root);
    this.#before = before;
    this.#contents = contents;
    this.#ids = ids;
  }

  /** Applies a frame. If it returns a promise, the next one must wait for it. */
  apply(frame: TreeFrame): Promise<void> | undefined {
    const path = "path" in frame ? frame.path : (this.#file?.place.path ?? ROOT);
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
    this.#closeFile();
    for (const [path, mtimeNs] of this.#directoryTimes) {
      const directory = this.#open(path); // undefined: it was removed later in the round
      if (directory !== undefined) setTimesAt(directory, ".", { mtimeNs });
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
    const place = this.#find(path);
    if (place !== undefined) this.#clear(place);
  }

  #link(path: BytePath, to: BytePath): void {
    const place = this.#place(path);
    const first = splitPath(to);
    const other = openBeneath(this.#root, first.directory, constants.O_DIRECTORY | O_PATH);
    if (other === undefined) throw outOfPlace(to);
    try {
      const stat = statAt(other, first.name);
      if (stat === undefined || typeOfMode(stat.mode) === "directory" || path === to) throw outOfPlace(to);
      this.#clear(place);
      this.#touch(place);
      linkAt(other, first.name, place.parent, place.name);
    } finally {
      closeSync(other);
    }
    this.#contents.delete(path);
  }

  #put(put: Put): void {
    const { path, inode } = put;
    if (path === ROOT) this.#putRoot(put);
    else if (inode.kind.type === "directory") this.#putDirectory(this.#place(path), put);
    else if (inode.kind.type === "file") this.#openFile(this.#place(path), put, inode.kind.size);
    else this.#putSpecial(this.#place(path), put);
  }

  #putRoot({ inode, fresh, atimeNs }: Put): void {
    if (inode.kind.type !== "directory") throw outOfPlace(ROOT);
    this.#closeDirectory(); // it may be among what goes
    if (fresh) clearDirectory(this.#root);
    setAttributes({ parent: this.#root, name: "." }, inode);
    setTimesAt(this.#root, ".", { mtimeNs: inode.mtimeNs, atimeNs });
    this.#directoryTimes.set(ROOT, inode.mtimeNs);
  }

  #putDirectory(place: Place, { inode, fresh, atimeNs }: Put): void {
    const stat = statAt(place.parent, place.name);
    const isThere = stat !== undefined && typeOfMode(stat.mode) === "directory";
    if (!isThere || fresh) {
      this.#clear(place);
      this.#touch(place);
      makeDirectoryAt(place.parent, place.name, 0o700);
    }
    setAttributes(place, inode);
    setTimesAt(place.parent, place.name, { mtimeNs: inode.mtimeNs, atimeNs });
    this.#directoryTimes.set(place.path, inode.mtimeNs);
  }

  #putSpecial(place: Place, { inode, atimeNs }: Put): void {
    const { parent, name } = place;
    this.#clear(place);
    this.#touch(place);
    if (inode.kind.type === "symlink") makeSymlinkAt(parent, name, inode.kind.target);
    else makeNodeAt(parent, name, modeOf(inode), "major" in inode.kind ? inode.kind : NO_DEVICE);
    setAttributes(place, inode);
    setTimesAt(parent, name, { mtimeNs: inode.mtimeNs, atimeNs });
  }

  #openFile(place: Place, { inode, fresh, atimeNs }: Put, size: number): void {
    const { path } = place;
    const content: Content = (fresh ? undefined : this.#contents.get(path)) ?? new Map();
    if (fresh || this.#isAsLeft(place)) this.written.add(path);
    const fd = fresh ? this.#create(place) : openExisting(place);
    this.#file = { place, inode, atimeNs, fd, size, content, fresh, end: 0 };
    this.#contents.set(path, content);
    if (fresh) return;
    ftruncateSync(fd, size);
    for (const index of content.keys()) if (index >= chunkCount(size)) content.delete(index);
  }

  /** By its times alone: seen through an overlay, a file may have another device and inode number. */
  #isAsLeft({ parent, name, path }: Place): boolean {
    const [entry, stat] = [this.#before?.entries.get(path), statAt(parent, name)];
    return entry !== undefined && entry.ctimeNs === stat?.ctimeNs && entry.mtimeNs === stat.mtimeNs;
  }

  #create(place: Place): number {
    this.#touch(place);
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;
    const created = openBeneath(place.parent, place.name, flags, 0o600);
    if (created !== undefined) return created;
    this.#clear(place);
    const fd = openBeneath(place.parent, place.name, flags, 0o600);
    if (fd === undefined) throw outOfPlace(place.path);
    return fd;
  }

  #chunk({ index, pieces, data }: Chunk): Promise<void> | undefined {
    const file = this.#file;
    if (file === undefined || index >= chunkCount(file.size)) throw outOfPlace(file?.place.path ?? ROOT);
    const start = index * CHUNK_BYTES;
    const length = chunkLength(file.size, index);
    const dataEnd = pieces.reduce((_, piece) => piece.offset + piece.length, 0);
    if (dataEnd > length) throw outOfPlace(file.place.path);
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
    const { place, inode, atimeNs, fd } = file;
    try {
      if (file.fresh && file.end < file.size) ftruncateSync(fd, file.size);
      setAttributes(place, inode);
      setTimesAt(place.parent, place.name, { mtimeNs: inode.mtimeNs, atimeNs });
    } catch (error) {
      throw fileError("write", place.path, error);
    } finally {
      closeSync(fd);
    }
  }

  /** Removes what is in a place, if anything. */
  #clear(place: Place): void {
    if (statAt(place.parent, place.name) === undefined) return;
    this.#touch(place);
    removeTree(place.parent, place.name);
  }

  /** The place of a path; undefined if there is no such directory. Valid until the next one is asked for. */
  #find(path: BytePath): Place | undefined {
    const { directory, name } = splitPath(path);
    const parent = this.#open(directory);
    return parent === undefined ? undefined : { path, directory, parent, name };
  }

  #place(path: BytePath): Place {
    const place = this.#find(path);
    if (place === undefined) throw outOfPlace(path);
    return place;
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

  /** Called before a directory changes at one of its names. */
  #touch({ directory, parent }: Place): void {
    if (this.#directoryTimes.has(directory)) return;
    const stat = statAt(parent, "");
    if (stat !== undefined) this.#directoryTimes.set(directory, stat.mtimeNs);
  }
}

const NO_DEVICE = { major: 0, minor: 0 };

function openExisting({ parent, name, path }: Place): number {
  const stat = statAt(parent, name);
  const isFile = stat !== undefined && typeOfMode(stat.mode) === "file";
  const fd = isFile ? openBeneath(parent, name, constants.O_WRONLY) : undefined;
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
function setAttributes({ parent, name }: Pick<Place, "parent" | "name">, inode: Inode): void {
  changeOwnerAt(parent, name, inode.uid, inode.gid);
  const wanted = new Set(inode.xattrs.map((xattr) => xattr.name));
  for (const present of listXattrsAt(parent, name) ?? []) {
    if (isPortableXattr(present) && !wanted.has(present)) removeXattrAt(parent, name, present);
  }
  for (const xattr of inode.xattrs) setXattrAt(parent, name, xattr.name, xattr.value);
  if (inode.kind.type !== "symlink") changeModeAt(parent, name, inode.permissions);
}

function outOfPlace(path: string): DmigrateError {
  return new DmigrateError("PROTOCOL", `The stream of files does not fit the tree at ${showPath(path)}; begin the migration anew`);
}
