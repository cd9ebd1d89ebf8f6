/**
 * The bytes of a round: frames that say how to turn what the target has into what the source has. Every function is pure.
 *
 * A frame is a u32 length of what follows, a u8 kind and a body; numbers are big-endian, names and paths byte strings behind a u16
 * length. A `put` of a file is followed by its `chunk`s; chunks that are not sent stay as they are, or zeros in a fresh file.
 */
import { DmigrateError } from "../core/errors.ts";
import {
  PATH_BYTES_MAX,
  bytePath,
  modeOf,
  permissionsOfMode,
  typeOfMode,
  type BytePath,
  type FileKind,
  type Inode,
  type Xattr,
} from "./inode.ts";

/** Files cross, and are remembered, in pieces of this size; the last one of a file is shorter. */
export const CHUNK_BYTES: number = 256 * 1024;
/** No frame is longer, and so no inode's attributes taken together. */
export const FRAME_BYTES_MAX: number = 1024 * 1024;

/** A stretch of data inside a chunk. */
export interface Piece {
  /** Bytes from the chunk's beginning. */
  readonly offset: number;
  readonly length: number;
}

/** What a stream of a round consists of. */
export type Frame =
  /** Nothing is at `path` any more, nor below it. */
  | { readonly frame: "remove"; readonly path: BytePath }
  /**
   * `inode` is at `path`. `fresh`: a file gets a new inode; a directory loses everything that was in it. `atimeNs` is no part of the inode,
   * for that is compared, and a file that was only read has not changed.
   */
  | { readonly frame: "put"; readonly path: BytePath; readonly inode: Inode; readonly fresh: boolean; readonly atimeNs: bigint }
  /** `path` is a further name of the inode at `to`. */
  | { readonly frame: "link"; readonly path: BytePath; readonly to: BytePath }
  /** The chunk with this index consists of `pieces`, whose bytes follow one another in `data`, and of zeros. */
  | { readonly frame: "chunk"; readonly index: number; readonly pieces: readonly Piece[]; readonly data: Uint8Array }
  /** The first bytes of each entry's digest, in the order of the walk: so that a difference has a place. */
  | { readonly frame: "digests"; readonly prefixes: Uint8Array }
  /** The round is complete. `digest`, 32 bytes as a byte string, is the source's tree, if the round was a frozen one. */
  | { readonly frame: "end"; readonly digest: string | undefined };

const KINDS = { remove: 1, put: 2, link: 3, chunk: 4, digests: 5, end: 6 } as const satisfies Record<Frame["frame"], number>;
const HEAD_BYTES = 5;
const DIGEST_BYTES = 32;
const FRESH = 1;
const OPAQUE = 2;
const NANOSECONDS = 1_000_000_000n;

/** The bytes of a frame. A chunk's data is not copied: it is the last part, as it is. Throws ROOTFS if the frame would be too long. */
export function encodeFrame(frame: Frame): readonly Uint8Array[] {
  const writer = new Writer();
  const data = writeBody(writer, frame);
  const head = writer.finish(KINDS[frame.frame], data?.length ?? 0);
  return data === undefined ? [head] : [head, data];
}

function writeBody(body: Writer, frame: Frame): Uint8Array | undefined {
  switch (frame.frame) {
    case "remove":
      body.text(frame.path);
      return undefined;
    case "put":
      body.u8((frame.fresh ? FRESH : 0) | (frame.inode.kind.type === "directory" && frame.inode.kind.opaque ? OPAQUE : 0));
      body.text(frame.path);
      body.time(frame.atimeNs);
      writeInode(body, frame.inode);
      return undefined;
    case "link":
      body.text(frame.path);
      body.text(frame.to);
      return undefined;
    case "chunk":
      body.u64(frame.index);
      body.u32(frame.pieces.length);
      for (const { offset, length } of frame.pieces) {
        body.u32(offset);
        body.u32(length);
      }
      return frame.data;
    case "digests":
      return frame.prefixes;
    case "end":
      if (frame.digest !== undefined) body.raw(frame.digest);
      return undefined;
  }
}

function writeInode(body: Writer, inode: Inode): void {
  const { kind, mtimeNs } = inode;
  body.u16(modeOf(inode));
  body.u32(inode.uid);
  body.u32(inode.gid);
  body.time(mtimeNs);
  if (kind.type === "file") body.u64(kind.size);
  if (kind.type === "symlink") body.text(kind.target);
  if (kind.type === "character-device" || kind.type === "block-device") {
    body.u32(kind.major);
    body.u32(kind.minor);
  }
  for (const { name, value } of inode.xattrs) {
    body.text(name);
    body.u32(value.length);
    body.bytes(value);
  }
}

/** Where frames are written; there is only ever one at work, since no frame is made of others. */
const scratch = Buffer.alloc(HEAD_BYTES + FRAME_BYTES_MAX);

class Writer {
  #at = HEAD_BYTES;

  u8(value: number): void {
    this.#at = scratch.writeUInt8(value, this.#take(1));
  }
  u16(value: number): void {
    this.#at = scratch.writeUInt16BE(value, this.#take(2));
  }
  u32(value: number): void {
    this.#at = scratch.writeUInt32BE(value, this.#take(4));
  }
  u64(value: number): void {
    this.#at = scratch.writeBigUInt64BE(BigInt(value), this.#take(8));
  }
  i64(value: bigint): void {
    this.#at = scratch.writeBigInt64BE(value, this.#take(8));
  }
  time(timeNs: bigint): void {
    const nanoseconds = ((timeNs % NANOSECONDS) + NANOSECONDS) % NANOSECONDS; // not negative, also before 1970
    this.i64((timeNs - nanoseconds) / NANOSECONDS);
    this.u32(Number(nanoseconds));
  }
  text(value: string): void {
    this.u16(value.length);
    this.raw(value);
  }
  raw(value: string): void {
    const at = this.#take(value.length);
    this.#at = at + scratch.write(value, at, "latin1");
  }
  bytes(value: Uint8Array): void {
    const at = this.#take(value.length);
    scratch.set(value, at);
    this.#at = at + value.length;
  }

  finish(kind: number, dataBytes: number): Uint8Array {
    scratch.writeUInt32BE(this.#at - HEAD_BYTES + dataBytes + 1, 0);
    scratch.writeUInt8(kind, HEAD_BYTES - 1);
    return Uint8Array.prototype.slice.call(scratch, 0, this.#at);
  }

  /** Where the next `length` bytes go. */
  #take(length: number): number {
    if (this.#at + length <= scratch.length) return this.#at;
    throw new DmigrateError("ROOTFS", `Extended attributes of a file exceed ${FRAME_BYTES_MAX} bytes; remove some of them`);
  }
}

/**
 * Finds the frames in a stream, however it is cut. Throws PROTOCOL at whatever no source sends; a decoder that threw must be discarded.
 */
export class FrameDecoder {
  #state: "open" | "ended" = "open";
  /** What came of a frame that is not complete: its head first. */
  #partial = Buffer.alloc(HEAD_BYTES);
  #filled = 0;

  /** The frames that `bytes` completes. A chunk's data may lie in `bytes`: it is valid until the next frame is asked for. */
  *frames(bytes: Uint8Array): Generator<Frame, void> {
    const input = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let at = 0;
    while (at < input.length) {
      if (this.#state === "ended") throw malformed("bytes after its end");
      if (this.#filled === 0 && input.length - at >= HEAD_BYTES) {
        const end = at + HEAD_BYTES - 1 + frameLength(input, at);
        if (end <= input.length) {
          yield this.#frame(input.subarray(at + HEAD_BYTES - 1, end));
          at = end;
          continue;
        }
      }
      at += this.#collect(input, at);
      const partial = this.#partial;
      if (this.#filled < partial.length) continue;
      if (partial.length === HEAD_BYTES && frameLength(partial, 0) > 1) {
        this.#partial = Buffer.allocUnsafe(HEAD_BYTES - 1 + frameLength(partial, 0));
        partial.copy(this.#partial);
        continue;
      }
      this.#partial = Buffer.alloc(HEAD_BYTES);
      this.#filled = 0;
      yield this.#frame(partial.subarray(HEAD_BYTES - 1));
    }
  }

  /** Must be called when the stream has ended. Throws PROTOCOL if the round is not complete. */
  end(): void {
    if (this.#state !== "ended") throw malformed("an end in the middle");
  }

  #collect(input: Buffer, at: number): number {
    const count = input.copy(this.#partial, this.#filled, at);
    this.#filled += count;
    return count;
  }

  #frame(kindAndBody: Buffer): Frame {
    const frame = decodeFrame(kindAndBody);
    if (frame.frame === "end") this.#state = "ended";
    return frame;
  }
}

function frameLength(buffer: Buffer, at: number): number {
  const length = buffer.readUInt32BE(at);
  if (length < 1 || length > FRAME_BYTES_MAX) throw malformed(`a frame of ${length} bytes`);
  return length;
}

function decodeFrame(bytes: Buffer): Frame {
  const reader = new Reader(bytes);
  const frame = readFrame(reader);
  reader.end();
  return frame;
}

function readFrame(reader: Reader): Frame {
  const kind = reader.u8();
  switch (kind) {
    case KINDS.remove:
      return { frame: "remove", path: readEntryPath(reader) };
    case KINDS.put: {
      const flags = reader.u8();
      const path = reader.path();
      const atimeNs = reader.time();
      return { frame: "put", path, inode: readInode(reader, (flags & OPAQUE) !== 0), fresh: (flags & FRESH) !== 0, atimeNs };
    }
    case KINDS.link:
      return { frame: "link", path: readEntryPath(reader), to: readEntryPath(reader) };
    case KINDS.chunk:
      return readChunk(reader);
    case KINDS.digests:
      return { frame: "digests", prefixes: reader.rest() };
    case KINDS.end:
      return { frame: "end", digest: reader.left === 0 ? undefined : reader.raw(DIGEST_BYTES) };
    default:
      throw malformed(`a frame of kind ${kind}`);
  }
}

/** A path that is not the root. */
function readEntryPath(reader: Reader): BytePath {
  const path = reader.path();
  if (path === "") throw malformed("the root removed or linked");
  return path;
}

function readInode(reader: Reader, opaque: boolean): Inode {
  const mode = reader.u16();
  const [uid, gid] = [reader.u32(), reader.u32()];
  const mtimeNs = reader.time();
  const type = typeOfMode(mode);
  if (type === undefined) throw malformed("an inode of no type");
  return {
    kind: readKind(reader, type, opaque),
    permissions: permissionsOfMode(mode),
    uid,
    gid,
    mtimeNs,
    xattrs: readXattrs(reader),
  };
}

function readKind(reader: Reader, type: FileKind["type"], opaque: boolean): FileKind {
  switch (type) {
    case "directory":
      return { type, opaque };
    case "file":
      return { type, size: reader.u64() };
    case "symlink":
      return { type, target: reader.target() };
    case "character-device":
    case "block-device":
      return { type, major: reader.u32(), minor: reader.u32() };
    case "fifo":
    case "socket":
      return { type };
  }
}

function readXattrs(reader: Reader): readonly Xattr[] {
  const xattrs: Xattr[] = [];
  while (reader.left > 0) {
    const name = reader.text();
    if (name === "" || name.includes("\0")) throw malformed("an attribute without a name");
    xattrs.push({ name, value: reader.bytes(reader.u32()) });
  }
  return xattrs;
}

function readChunk(reader: Reader): Frame {
  const index = reader.u64();
  const pieces: Piece[] = [];
  let end = 0;
  let dataBytes = 0;
  for (let count = reader.u32(); count > 0; count--) {
    const [offset, length] = [reader.u32(), reader.u32()];
    if (offset < end || length === 0 || offset + length > CHUNK_BYTES) throw malformed("a chunk of pieces out of order");
    end = offset + length;
    dataBytes += length;
    pieces.push({ offset, length });
  }
  const data = reader.rest();
  if (data.length !== dataBytes) throw malformed(`a chunk of ${data.length} bytes instead of ${dataBytes}`);
  return { frame: "chunk", index, pieces, data };
}

class Reader {
  readonly #buffer: Buffer;
  #at = 0;

  constructor(buffer: Buffer) {
    this.#buffer = buffer;
  }

  /** Bytes not read yet. */
  get left(): number {
    return this.#buffer.length - this.#at;
  }

  u8(): number {
    return this.#buffer.readUInt8(this.#take(1));
  }
  u16(): number {
    return this.#buffer.readUInt16BE(this.#take(2));
  }
  u32(): number {
    return this.#buffer.readUInt32BE(this.#take(4));
  }
  u64(): number {
    const value = this.#buffer.readBigUInt64BE(this.#take(8));
    if (value > Number.MAX_SAFE_INTEGER) throw malformed(`the number ${value}`);
    return Number(value);
  }
  i64(): bigint {
    return this.#buffer.readBigInt64BE(this.#take(8));
  }
  time(): bigint {
    const [seconds, nanoseconds] = [this.i64(), BigInt(this.u32())];
    if (nanoseconds >= NANOSECONDS) throw malformed("a time of too many nanoseconds");
    return seconds * NANOSECONDS + nanoseconds;
  }
  raw(length: number): string {
    const at = this.#take(length);
    return this.#buffer.toString("latin1", at, at + length);
  }
  text(): string {
    return this.raw(this.u16());
  }
  path(): BytePath {
    const text = this.text();
    const path = bytePath(text);
    if (path === undefined) throw malformed(`the path ${JSON.stringify(text.slice(0, 200))}`);
    return path;
  }
  target(): string {
    const text = this.text();
    if (text === "" || text.length > PATH_BYTES_MAX || text.includes("\0")) throw malformed("a link to nowhere");
    return text;
  }
  /** A copy. */
  bytes(length: number): Uint8Array {
    const at = this.#take(length);
    return Uint8Array.prototype.slice.call(this.#buffer, at, at + length);
  }
  /** A view of everything left. */
  rest(): Uint8Array {
    return this.#buffer.subarray(this.#take(this.left));
  }
  end(): void {
    if (this.left > 0) throw malformed(`${this.left} bytes too many in a frame`);
  }

  #take(length: number): number {
    if (length > this.left) throw malformed("a frame that ends too early");
    const at = this.#at;
    this.#at += length;
    return at;
  }
}

function malformed(what: string): DmigrateError {
  return new DmigrateError("PROTOCOL", `Malformed stream of files: ${what}; update both agents to the same release`);
}
