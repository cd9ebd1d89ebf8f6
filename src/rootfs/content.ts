/**
 * What is in a file: which chunks hold something, and the hash of each, by which either side knows what the other has.
 */
import { hash } from "node:crypto";
import { closeSync, constants, openSync, read, readSync } from "node:fs";
import { promisify } from "node:util";
import { O_PATH, openBeneath, statAt } from "../kernel/files.ts";
import { dataExtents, type Extent } from "../kernel/sparse.ts";
import { CHUNK_BYTES, type Piece } from "./codec.ts";
import { typeOfMode, type BytePath } from "./inode.ts";

/** A file's content: index of each chunk that is not all zeros, and the SHA-256 of its bytes as a byte string. */
export type Content = Map<number, string>;

/** How many chunks a file of `size` bytes has. */
export function chunkCount(size: number): number {
  return Math.ceil(size / CHUNK_BYTES);
}

/** Bytes of a file's chunk. */
export function chunkLength(size: number, index: number): number {
  return Math.min(CHUNK_BYTES, size - index * CHUNK_BYTES);
}

/** A chunk before it is read: where in it there is data. */
export interface ChunkPlan {
  readonly index: number;
  readonly pieces: readonly Piece[];
}

/** Cuts extents of data, which are in order, at the borders of chunks. */
export function* chunksOf(extents: Iterable<Extent>): Generator<ChunkPlan, void> {
  let index = 0;
  let pieces: Piece[] = [];
  for (const { start, end } of extents) {
    for (let at = start; at < end;) {
      const chunk = Math.floor(at / CHUNK_BYTES);
      const stop = Math.min(end, (chunk + 1) * CHUNK_BYTES);
      if (chunk !== index && pieces.length > 0) yield { index, pieces };
      if (chunk !== index) [index, pieces] = [chunk, []];
      pieces.push({ offset: at - chunk * CHUNK_BYTES, length: stop - at });
      at = stop;
    }
  }
  if (pieces.length > 0) yield { index, pieces };
}

/** The chunks of an open file that may hold data. `allocated`: its bytes on the disk; with fewer than its size it has holes. */
export function plannedChunks(fd: number, size: number, allocated: number): Generator<ChunkPlan, void> {
  return chunksOf(allocated < size ? dataExtents(fd, size) : [{ start: 0, end: size }]);
}

/** How many bytes `pieces` have. */
export function bytesIn(pieces: readonly Piece[]): number {
  return pieces.reduce((sum, { length }) => sum + length, 0);
}

/** Reads a chunk's pieces one after the other into `data`, which has their length. What the file has lost meanwhile becomes zeros. */
export function readChunkSync(fd: number, { index, pieces }: ChunkPlan, data: Buffer): void {
  let at = 0;
  for (const { offset, length } of pieces) {
    const count = readSync(fd, data, at, length, index * CHUNK_BYTES + offset);
    data.fill(0, at + count, at + length);
    at += length;
  }
}

const readAsync = promisify(read);

/** `readChunkSync` beside the event loop. */
export async function readChunk(fd: number, { index, pieces }: ChunkPlan, data: Buffer): Promise<void> {
  let at = 0;
  for (const { offset, length } of pieces) {
    const { bytesRead } = await readAsync(fd, data, at, length, index * CHUNK_BYTES + offset);
    data.fill(0, at + bytesRead, at + length);
    at += length;
  }
}

const ZEROS = Buffer.alloc(CHUNK_BYTES);
const whole = Buffer.alloc(CHUNK_BYTES);

/** The hash of a chunk of `chunkBytes`, made of `pieces` whose bytes are `data` and of zeros; undefined if it is all zeros. */
export function chunkHash(pieces: readonly Piece[], data: Uint8Array, chunkBytes: number): string | undefined {
  if (ZEROS.compare(data, 0, data.length, 0, data.length) === 0) return undefined;
  if (data.length === chunkBytes) return sha256(data);
  whole.fill(0, 0, chunkBytes);
  let at = 0;
  for (const { offset, length } of pieces) {
    whole.set(data.subarray(at, at + length), offset);
    at += length;
  }
  return sha256(whole.subarray(0, chunkBytes));
}

/** SHA-256 as a byte string. */
export function sha256(data: Uint8Array): string {
  return hash("sha256", data, "binary");
}

/**
 * Opens a regular file of a tree for reading; undefined if it is none. It is looked at before it is opened, since opening a device can
 * do things, and its time of access stays.
 */
export function openFile(root: number, path: BytePath): number | undefined {
  const handle = openBeneath(root, path, constants.O_NOFOLLOW | O_PATH);
  if (handle === undefined) return undefined;
  try {
    const stat = statAt(handle, "");
    if (stat === undefined || typeOfMode(stat.mode) !== "file") return undefined;
    return openSync(`/proc/self/fd/${handle}`, constants.O_RDONLY | constants.O_NOATIME);
  } finally {
    closeSync(handle);
  }
}

/** The content of a file of a tree, read as a whole; undefined if it is none. */
export async function readContent(root: number, path: BytePath): Promise<Content | undefined> {
  const fd = openFile(root, path);
  if (fd === undefined) return undefined;
  try {
    const content: Content = new Map();
    const buffer = Buffer.allocUnsafe(CHUNK_BYTES);
    const { size = 0, allocated = 0 } = statAt(fd, "") ?? {};
    for (const plan of plannedChunks(fd, size, allocated)) {
      const data = buffer.subarray(0, bytesIn(plan.pieces));
      await readChunk(fd, plan, data);
      const found = chunkHash(plan.pieces, data, chunkLength(size, plan.index));
      if (found !== undefined) content.set(plan.index, found);
    }
    return content;
  } finally {
    closeSync(fd);
  }
}
