/**
 * CRIU's image files as one stream of bytes: each file is sent as it is closed, so that only the last one is left when the
 * dump is done. What the target has of their content crosses as a reference to that.
 *
 * A file is: u8 length of its name, u48 length of its content (big endian), name, parts. A part is: u32 how many bytes it has, and these;
 * or, with the highest bit set, how many pages, and u32 the number by which the target has the first of them; the others have the next
 * ones. A file that is closed twice is sent twice; the later one counts.
 */
import { closeSync, fchownSync, fstatSync, openSync, readSync, writeFileSync } from "node:fs";
import { stat } from "node:fs/promises";
import path from "node:path";
import { setImmediate as letOthersRun } from "node:timers/promises";
import { ByteReader } from "../core/byte-reader.ts";
import { DmigrateError } from "../core/errors.ts";
import { SAME_RELEASE } from "../wire/failure.ts";
import { PAGE_BYTES } from "../wire/trunk-frames.ts";
import { contentIn, type ContentRange } from "./image-content.ts";

/** In ranges of content the pieces in which what is known of it is asked for. */
const CHUNK_BYTES = 64 * PAGE_BYTES;
/** After so much content others run: references to it are so few bytes that nobody waits for them to be sent, or to come. */
const TURN_BYTES = 16 * CHUNK_BYTES;
const HEADER_BYTES = 7;
const PART_BYTES = 4;
const NUMBER_BYTES = 4;
/** Of the first word of a part. */
const IS_REFERENCE = 2 ** 31;
const FILE_BYTES_MAX = 2 ** 40;
const FILE_NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,120}$/;

/** Successive pages of an image, and the number by which the target has the first of them, if it has them. */
export interface ImageRun {
  readonly pageCount: number;
  readonly number: number | undefined;
}

/** What the sender of images may be told. */
export interface SendOptions {
  /** What to send in place of a file, if not what it holds. */
  readonly amended?: (name: string) => Uint8Array | undefined;
  /** What the target has of some content, up to 64 pages, in order; undefined if it has nothing. */
  readonly known?: (content: Uint8Array) => readonly ImageRun[] | undefined;
}

/** Content that was sent ahead. */
export interface AheadContent {
  /** Whether all of these pages are there. */
  has(number: number, pageCount: number): boolean;
  read(number: number, into: Uint8Array): void;
}

/** For a source that has sent nothing ahead. */
const NOTHING: AheadContent = { has: () => false, read: () => {} };

/**
 * Sends the named files of a folder in the order in which the names come. A file that has vanished is left out. The container stands still
 * meanwhile: reading many small files that lie in memory takes a fraction of the time if nobody waits for any of them. What it yields is
 * valid until the next is asked for.
 */
export async function* sendImages(
  folder: string,
  names: AsyncIterable<string>,
  { amended = () => undefined, known = () => undefined }: SendOptions = {},
): AsyncGenerator<Uint8Array, void> {
  const buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES);
  const turns = new Turns();
  for await (const name of names) {
    if (!FILE_NAME.test(name)) continue; // a temporary file of runc
    const content = amended(name);
    if (content !== undefined) {
      yield header(name, content.length);
      if (content.length > 0) yield* plain(content);
      continue;
    }
    const file = openIfThere(path.join(folder, name));
    if (file === undefined) continue;
    try {
      const { size } = fstatSync(file);
      yield header(name, size);
      let sent = 0;
      for (const { start, end } of contentIn(name, file, size)) {
        for (const bytes of chunksOf(name, file, { start: sent, end: start }, buffer)) yield* plain(bytes);
        for (const bytes of chunksOf(name, file, { start, end }, buffer)) {
          yield* parts(bytes, known);
          await turns.after(bytes.length);
        }
        sent = end;
      }
      for (const bytes of chunksOf(name, file, { start: sent, end: size }, buffer)) yield* plain(bytes);
    } finally {
      closeSync(file);
    }
  }
}

/** Has others run now and then. */
class Turns {
  #byteCount = 0;

  /** To be called after so much work. */
  async after(byteCount: number): Promise<void> {
    this.#byteCount += byteCount;
    if (this.#byteCount < TURN_BYTES) return;
    this.#byteCount = 0;
    await letOthersRun();
  }
}

function* chunksOf(name: string, file: number, { start, end }: ContentRange, buffer: Buffer): Generator<Buffer, void> {
  for (let at = start; at < end;) {
    const chunk = buffer.subarray(0, end - at);
    if (readSync(file, chunk, 0, chunk.length, at) !== chunk.length)
      throw new DmigrateError("DUMP_FAILED", `Image ${name} became shorter while it was sent; the container keeps running on the source`);
    yield chunk;
    at += chunk.length;
  }
}

/** Content, as what the target has of it and bytes. */
function* parts(bytes: Uint8Array, known: NonNullable<SendOptions["known"]>): Generator<Uint8Array, void> {
  let at = 0;
  for (const { pageCount, number } of known(bytes.subarray(0, bytes.length - (bytes.length % PAGE_BYTES))) ?? []) {
    const next = at + pageCount * PAGE_BYTES;
    if (number === undefined) yield* plain(bytes.subarray(at, next));
    else yield reference(pageCount, number);
    at = next;
  }
  if (at < bytes.length) yield* plain(bytes.subarray(at));
}

function* plain(bytes: Uint8Array): Generator<Uint8Array, void> {
  const length = Buffer.alloc(PART_BYTES);
  length.writeUInt32BE(bytes.length);
  yield length;
  yield bytes;
}

function reference(pageCount: number, number: number): Uint8Array {
  const bytes = Buffer.alloc(PART_BYTES + NUMBER_BYTES);
  bytes.writeUInt32BE(IS_REFERENCE + pageCount, 0);
  bytes.writeUInt32BE(number, PART_BYTES);
  return bytes;
}

function openIfThere(file: string): number | undefined {
  try {
    return openSync(file, "r");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}

/**
 * Writes the files of a stream into a folder, for its owner alone to read: images hold memory. Throws PROTOCOL for a name or length that
 * no image has, or content that was not sent ahead, TRANSFER_FAILED for a stream that ends inside a file, NO_SPACE. However it ends, no
 * file stays open. As for `sendImages` nobody waits for any of these files.
 * @param arrived is told the name of each file once it is complete
 * @param ahead what the images refer to
 */
export async function receiveImages(
  stream: AsyncIterable<Uint8Array>,
  folder: string,
  arrived: (name: string) => void = () => {},
  ahead: AheadContent = NOTHING,
): Promise<void> {
  const { uid, gid } = await stat(folder);
  await using reader = new ByteReader(stream);
  const buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES);
  const turns = new Turns();
  while (!(await reader.atEnd())) {
    const head = await reader.take(HEADER_BYTES);
    const name = (await reader.take(head.readUInt8(0))).toString("latin1");
    const size = head.readUIntBE(1, 6);
    if (!FILE_NAME.test(name) || size > FILE_BYTES_MAX) {
      throw new DmigrateError("PROTOCOL", "The source sent an image of an impossible name or size; update both agents to the same release");
    }
    const file = openSync(path.join(folder, name), "w", 0o600);
    try {
      fchownSync(file, uid, gid);
      for (let missing = size; missing > 0;) {
        const part = await readPart(reader, missing);
        if (part.number === undefined) for await (const chunk of reader.stream(part.byteCount)) writeAll(folder, file, chunk);
        else for (const chunk of chunksAhead(ahead, part, buffer)) writeAll(folder, file, chunk);
        missing -= part.byteCount;
        await turns.after(part.byteCount);
      }
    } finally {
      closeSync(file);
    }
    arrived(name);
  }
}

/** Content that was sent ahead. */
interface Reference {
  readonly byteCount: number;
  readonly number: number;
}

/** What comes next of an image: a reference, or bytes that follow. */
type Part = Reference | { readonly byteCount: number; readonly number: undefined };

/** @param missing how many bytes the image still lacks */
async function readPart(reader: ByteReader, missing: number): Promise<Part> {
  const word = (await reader.take(PART_BYTES)).readUInt32BE();
  const isReference = word >= IS_REFERENCE;
  const byteCount = isReference ? (word - IS_REFERENCE) * PAGE_BYTES : word;
  if (byteCount === 0 || byteCount > missing)
    throw new DmigrateError("PROTOCOL", `The source sent ${byteCount} bytes of an image that lacks ${missing}; ${SAME_RELEASE}`);
  if (!isReference) return { byteCount, number: undefined };
  return { byteCount, number: (await reader.take(NUMBER_BYTES)).readUInt32BE() };
}

/** Content that was sent ahead, in chunks, one after the other in the same memory. Throws PROTOCOL if it was not sent. */
function* chunksAhead(ahead: AheadContent, { number, byteCount }: Reference, buffer: Buffer): Generator<Uint8Array, void> {
  if (!ahead.has(number, byteCount / PAGE_BYTES))
    throw new DmigrateError("PROTOCOL", `The source has not sent what it refers to as page ${number}; ${SAME_RELEASE}`);
  for (let done = 0; done < byteCount; done += CHUNK_BYTES) {
    const chunk = buffer.subarray(0, byteCount - done);
    ahead.read(number + done / PAGE_BYTES, chunk);
    yield chunk;
  }
}

function writeAll(folder: string, file: number, chunk: Uint8Array): void {
  try {
    writeFileSync(file, chunk);
  } catch (error) {
    failWriting(folder, error);
  }
}

/** Throws NO_SPACE if it is that, else what it is. */
export function failWriting(folder: string, error: unknown): never {
  if (error instanceof Error && "code" in error && error.code === "ENOSPC")
    throw new DmigrateError("NO_SPACE", `No space left in ${folder} for the container's images; make its file system larger`, error);
  throw error;
}

function header(name: string, size: number): Uint8Array {
  const bytes = Buffer.alloc(HEADER_BYTES + name.length);
  bytes.writeUInt8(name.length, 0);
  bytes.writeUIntBE(size, 1, 6);
  bytes.write(name, HEADER_BYTES, "latin1");
  return bytes;
}
