/**
 * Frames of a trunk: what its connections carry after their hellos, in both directions. Pure: bytes in, plain data out.
 *
 * Numbers are big-endian; a frame has these 16 bytes, then its payload:
 *
 *     offset  bytes  content
 *          0      1  kind
 *          1      3  length of the payload
 *          4      4  stream, counted from 1 by the side that opens them
 *          8      4  place: the how-manieth frame of its stream in this direction, from 0; of a credit 0
 *         12      4  CRC-32 of the 12 bytes before and the payload; of pages only up to the first of them, since TLS has checksums already
 *                    and this one would cost as much as all else
 *
 *     kind         payload
 *     0 data       1 to 65,536 bytes
 *     1 end        none: nothing more comes on this stream in this direction
 *     2 open       the stream's class (1 byte: its number in TRANSFER_CLASSES), then its name, ASCII, at most 64 bytes
 *     3 accepted   none
 *     4 reset      none, or why: a JSON object { code, message }; nothing more comes
 *     5 credit     8 bytes: how many bytes of the stream its receiver has taken so far
 *     6 pages      process (4 bytes), number of the first page (8 bytes), then 1 to 16 pages of memory
 *
 * The frames of a stream take any of the connections; their places say in which order they belong. What opens streams, the resets of such
 * as are not accepted yet, and credits take the first one. A sender has no more data on its way than its receiver's window, counted from
 * the bytes that this has taken. Pages say themselves where they belong: they have place 0, take any of the connections, and are not
 * counted, since nobody sends them unasked.
 */
import { DmigrateError } from "../core/errors.ts";
import { TRANSFER_CLASSES, type TransferClass } from "../core/schedule.ts";
import { decodeFailure, encodeFailure, SAME_RELEASE } from "./failure.ts";

export const TRUNK_HEADER_BYTES = 16;
/** The longest payload of a data frame: what somebody waits for waits for so much on a connection. */
export const TRUNK_DATA_BYTES_MAX = 65_536;
const NAME_BYTES_MAX = 64;
const FAILURE_BYTES_MAX = 0xff_ff;
const CREDIT_BYTES = 8;
export const PAGE_BYTES = 4096;
/** What a frame of pages has before them. */
const PAGES_AT = 12;
/** The most pages in a frame. */
export const FRAME_PAGES_MAX = 16;
/** Where the pages begin in a frame that `sealPages` makes. */
export const PAGES_OFFSET: number = TRUNK_HEADER_BYTES + PAGES_AT;
const CHECKED_BYTES = 12;

const NOTHING = new Uint8Array(0);

const KINDS = ["data", "end", "open", "accepted", "reset", "credit", "pages"] as const;
type Kind = (typeof KINDS)[number];

/** Shortest and longest payload. */
const LENGTHS: Readonly<Record<Kind, readonly [number, number]>> = {
  data: [1, TRUNK_DATA_BYTES_MAX],
  end: [0, 0],
  open: [2, 1 + NAME_BYTES_MAX],
  accepted: [0, 0],
  reset: [0, FAILURE_BYTES_MAX],
  credit: [CREDIT_BYTES, CREDIT_BYTES],
  pages: [PAGES_AT + PAGE_BYTES, PAGES_AT + FRAME_PAGES_MAX * PAGE_BYTES],
};
const PAYLOAD_BYTES_MAX = PAGES_AT + FRAME_PAGES_MAX * PAGE_BYTES;

/** zlib's `crc32`: goes on from the checksum of what came before. */
export type Checksum = (bytes: Uint8Array, before?: number) => number;

/** Successive pages of one process: `page` is the address of the first one, divided by the page size. */
export interface FramePages {
  readonly process: number;
  readonly page: number;
  readonly bytes: Uint8Array;
}

/** What a frame says. What was decoded is one piece, or pages, valid until the decoder is asked for more. */
export type FrameContent =
  | { readonly kind: "data"; readonly pieces: readonly Uint8Array[]; readonly byteCount: number }
  | { readonly kind: "end" }
  | { readonly kind: "open"; readonly name: string; readonly transferClass: TransferClass }
  | { readonly kind: "accepted" }
  | { readonly kind: "reset"; readonly reason?: DmigrateError }
  | { readonly kind: "credit"; readonly takenBytes: number }
  | ({ readonly kind: "pages" } & FramePages);

/** Everything but pages, whose frames `sealPages` makes. */
export type PlainContent = Exclude<FrameContent, { kind: "pages" }>;

export interface TrunkFrame {
  readonly stream: number;
  readonly place: number;
  readonly content: FrameContent;
}

/** A frame that is to be sent. */
export interface PlainFrame extends TrunkFrame {
  readonly content: PlainContent;
}

/** A frame as pieces to be written one after the other: the header is the first, data are not copied. */
export function encodeTrunkFrame({ stream, place, content }: PlainFrame, checksum: Checksum): [Uint8Array, ...Uint8Array[]] {
  const payload = payloadOf(content);
  const header = new Uint8Array(TRUNK_HEADER_BYTES);
  const byteCount = payload.reduce((sum, { length }) => sum + length, 0);
  writeHeader(header, content.kind, byteCount, stream, place);
  viewOf(header).setUint32(CHECKED_BYTES, checksumOf(header, payload, checksum));
  return [header, ...payload];
}

/**
 * Makes a frame of pages where they lie.
 * @param buffer has them from `PAGES_OFFSET` on
 * @returns the part of the buffer that is the frame
 */
export function sealPages(
  buffer: Uint8Array,
  { stream, process, page, pageCount }: { stream: number; process: number; page: number; pageCount: number },
  checksum: Checksum,
): Uint8Array {
  const frame = buffer.subarray(0, PAGES_OFFSET + pageCount * PAGE_BYTES);
  const view = viewOf(frame);
  writeHeader(frame, "pages", frame.length - TRUNK_HEADER_BYTES, stream, 0);
  view.setUint32(TRUNK_HEADER_BYTES, process);
  view.setBigUint64(TRUNK_HEADER_BYTES + 4, BigInt(page));
  view.setUint32(CHECKED_BYTES, checksumOf(frame, [frame.subarray(TRUNK_HEADER_BYTES, PAGES_OFFSET)], checksum));
  return frame;
}

function writeHeader(bytes: Uint8Array, kind: Kind, byteCount: number, stream: number, place: number): void {
  const view = viewOf(bytes);
  view.setUint32(0, KINDS.indexOf(kind) * 2 ** 24 + byteCount);
  view.setUint32(4, stream);
  view.setUint32(8, place);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function payloadOf(content: PlainContent): readonly Uint8Array[] {
  switch (content.kind) {
    case "data":
      return content.pieces;
    case "open":
      return [Uint8Array.of(TRANSFER_CLASSES.indexOf(content.transferClass)), new TextEncoder().encode(content.name)];
    case "reset":
      return content.reason === undefined ? [] : [encodeFailure(content.reason, FAILURE_BYTES_MAX)];
    case "credit": {
      const bytes = new Uint8Array(CREDIT_BYTES);
      new DataView(bytes.buffer).setBigUint64(0, BigInt(content.takenBytes));
      return [bytes];
    }
    case "end":
    case "accepted":
      return [];
  }
}

function checksumOf(header: Uint8Array, payload: readonly Uint8Array[], checksum: Checksum): number {
  return payload.reduce((sum, piece) => checksum(piece, sum), checksum(header.subarray(0, CHECKED_BYTES)));
}

/**
 * Decodes frames out of the chunks of one connection, cut anywhere. Throws PROTOCOL for what is no frame, and for one that was damaged on
 * its way; a decoder that threw must not be used any more.
 */
export class TrunkDecoder {
  readonly #checksum: Checksum;
  readonly #header = new Uint8Array(TRUNK_HEADER_BYTES);
  #headerBytes = 0;
  #payloadBytes = 0;
  /** A payload that came in several chunks is put together here. */
  #assembled = new Uint8Array(0);
  #assembledBytes = 0;

  constructor(checksum: Checksum) {
    this.#checksum = checksum;
  }

  *decode(chunk: Uint8Array): Generator<TrunkFrame, void> {
    for (let at = 0; at < chunk.length;) {
      if (this.#headerBytes < TRUNK_HEADER_BYTES) {
        const part = chunk.subarray(at, at + TRUNK_HEADER_BYTES - this.#headerBytes);
        this.#header.set(part, this.#headerBytes);
        this.#headerBytes += part.length;
        at += part.length;
        if (this.#headerBytes < TRUNK_HEADER_BYTES) return;
        this.#payloadBytes = this.#lengthOfPayload();
        if (this.#payloadBytes === 0) yield this.#frame(NOTHING);
        continue;
      }
      const part = chunk.subarray(at, at + this.#payloadBytes - this.#assembledBytes);
      at += part.length;
      if (part.length === this.#payloadBytes) yield this.#frame(part);
      else if (this.#assemble(part)) yield this.#frame(this.#assembled.subarray(0, this.#payloadBytes));
    }
  }

  /** Returns whether the payload is complete. */
  #assemble(part: Uint8Array): boolean {
    if (this.#assembled.length === 0) this.#assembled = new Uint8Array(PAYLOAD_BYTES_MAX);
    this.#assembled.set(part, this.#assembledBytes);
    this.#assembledBytes += part.length;
    return this.#assembledBytes === this.#payloadBytes;
  }

  /** Throws at once for a length that its kind can't have. */
  #lengthOfPayload(): number {
    const word = new DataView(this.#header.buffer).getUint32(0);
    const kind = KINDS[word >>> 24];
    const length = word & 0xff_ff_ff;
    const [shortest, longest] = kind === undefined ? [1, 0] : LENGTHS[kind];
    const isWhole = kind !== "pages" || (length - PAGES_AT) % PAGE_BYTES === 0;
    if (length >= shortest && length <= longest && isWhole) return length;
    throw new DmigrateError("PROTOCOL", `An agent sent what is no frame: kind ${word >>> 24} with ${length} bytes; ${SAME_RELEASE}`);
  }

  #frame(payload: Uint8Array): TrunkFrame {
    const view = new DataView(this.#header.buffer);
    this.#headerBytes = 0;
    this.#assembledBytes = 0;
    const kind = KINDS[view.getUint8(0)] ?? "end"; // looked at with the length
    const checked = kind === "pages" ? payload.subarray(0, PAGES_AT) : payload;
    if (view.getUint32(CHECKED_BYTES) !== checksumOf(this.#header, [checked], this.#checksum))
      throw new DmigrateError("PROTOCOL", "A frame was damaged on its way, or its sender has a fault; migrate again");
    return { stream: view.getUint32(4), place: view.getUint32(8), content: contentOf(kind, payload) };
  }
}

function contentOf(kind: Kind, payload: Uint8Array): FrameContent {
  switch (kind) {
    case "data":
      return { kind, pieces: [payload], byteCount: payload.length };
    case "pages": {
      const view = viewOf(payload);
      return { kind, process: view.getUint32(0), page: Number(view.getBigUint64(4)), bytes: payload.subarray(PAGES_AT) };
    }
    case "open": {
      const [number = 0, ...name] = payload;
      const transferClass = TRANSFER_CLASSES[number];
      if (transferClass === undefined)
        throw new DmigrateError("PROTOCOL", `An agent opened a stream of class ${number}, which is none; ${SAME_RELEASE}`);
      return { kind, name: String.fromCharCode(...name), transferClass };
    }
    case "reset":
      return payload.length === 0 ? { kind } : { kind, reason: decodeFailure(payload) };
    case "credit":
      return { kind, takenBytes: Number(viewOf(payload).getBigUint64(0)) };
    case "end":
    case "accepted":
      return { kind };
  }
}
