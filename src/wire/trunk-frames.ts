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
 *         12      4  CRC-32 of the 12 bytes before and the payload
 *
 *     kind         payload
 *     0 data       1 to 65,536 bytes
 *     1 end        none: nothing more comes on this stream in this direction
 *     2 open       the stream's class (1 byte: its number in TRANSFER_CLASSES), then its name, ASCII, at most 64 bytes
 *     3 accepted   none
 *     4 reset      none, or why: a JSON object { code, message }; nothing more comes
 *     5 credit     8 bytes: how many bytes of the stream its receiver has taken so far
 *
 * The frames of a stream take any of the connections; their places say in which order they belong. What opens streams, the resets of such
 * as are not accepted yet, and credits take the first one. A sender has no more data on its way than its receiver's window, counted from
 * the bytes that this has taken.
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
const CHECKED_BYTES = 12;

const KINDS = ["data", "end", "open", "accepted", "reset", "credit"] as const;
type Kind = (typeof KINDS)[number];

/** Shortest and longest payload. */
const LENGTHS: Readonly<Record<Kind, readonly [number, number]>> = {
  data: [1, TRUNK_DATA_BYTES_MAX],
  end: [0, 0],
  open: [2, 1 + NAME_BYTES_MAX],
  accepted: [0, 0],
  reset: [0, FAILURE_BYTES_MAX],
  credit: [CREDIT_BYTES, CREDIT_BYTES],
};

/** zlib's `crc32`: goes on from the checksum of what came before. */
export type Checksum = (bytes: Uint8Array, before?: number) => number;

/** What a frame says. The pieces of data are views into what was decoded. */
export type FrameContent =
  | { readonly kind: "data"; readonly pieces: readonly Uint8Array[]; readonly byteCount: number }
  | { readonly kind: "end" }
  | { readonly kind: "open"; readonly name: string; readonly transferClass: TransferClass }
  | { readonly kind: "accepted" }
  | { readonly kind: "reset"; readonly reason?: DmigrateError }
  | { readonly kind: "credit"; readonly takenBytes: number };

export interface TrunkFrame {
  readonly stream: number;
  readonly place: number;
  readonly content: FrameContent;
}

/** A frame as pieces to be written one after the other: the header is the first, data are not copied. */
export function encodeTrunkFrame({ stream, place, content }: TrunkFrame, checksum: Checksum): [Uint8Array, ...Uint8Array[]] {
  const payload = payloadOf(content);
  const header = new Uint8Array(TRUNK_HEADER_BYTES);
  const view = new DataView(header.buffer);
  const byteCount = payload.reduce((sum, { length }) => sum + length, 0);
  view.setUint32(0, KINDS.indexOf(content.kind) * 2 ** 24 + byteCount);
  view.setUint32(4, stream);
  view.setUint32(8, place);
  view.setUint32(CHECKED_BYTES, checksumOf(header, payload, checksum));
  return [header, ...payload];
}

function payloadOf(content: FrameContent): readonly Uint8Array[] {
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
  #pieces: Uint8Array[] = [];
  #missingBytes = 0;

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
        this.#missingBytes = this.#payloadBytes();
      } else {
        const piece = chunk.subarray(at, at + this.#missingBytes);
        this.#pieces.push(piece);
        this.#missingBytes -= piece.length;
        at += piece.length;
      }
      if (this.#missingBytes === 0) yield this.#frame();
    }
  }

  /** Throws at once for a length that its kind can't have. */
  #payloadBytes(): number {
    const word = new DataView(this.#header.buffer).getUint32(0);
    const kind = KINDS[word >>> 24];
    const length = word & 0xff_ff_ff;
    const [shortest, longest] = kind === undefined ? [1, 0] : LENGTHS[kind];
    if (length >= shortest && length <= longest) return length;
    throw new DmigrateError("PROTOCOL", `An agent sent what is no frame: kind ${word >>> 24} with ${length} bytes; ${SAME_RELEASE}`);
  }

  #frame(): TrunkFrame {
    const view = new DataView(this.#header.buffer);
    const pieces = this.#pieces;
    this.#headerBytes = 0;
    this.#pieces = [];
    if (view.getUint32(CHECKED_BYTES) !== checksumOf(this.#header, pieces, this.#checksum))
      throw new DmigrateError("PROTOCOL", "A frame was damaged on its way, or its sender has a fault; migrate again");
    const kind = KINDS[view.getUint8(0)] ?? "end"; // looked at with the length
    return { stream: view.getUint32(4), place: view.getUint32(8), content: contentOf(kind, pieces) };
  }
}

function contentOf(kind: Kind, pieces: readonly Uint8Array[]): FrameContent {
  switch (kind) {
    case "data":
      return { kind, pieces, byteCount: pieces.reduce((sum, { length }) => sum + length, 0) };
    case "open": {
      const [number = 0, ...name] = joined(pieces);
      const transferClass = TRANSFER_CLASSES[number];
      if (transferClass === undefined)
        throw new DmigrateError("PROTOCOL", `An agent opened a stream of class ${number}, which is none; ${SAME_RELEASE}`);
      return { kind, name: String.fromCharCode(...name), transferClass };
    }
    case "reset":
      return pieces.length === 0 ? { kind } : { kind, reason: decodeFailure(joined(pieces)) };
    case "credit": {
      const bytes = joined(pieces);
      return { kind, takenBytes: Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0)) };
    }
    case "end":
    case "accepted":
      return { kind };
  }
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  const [only] = pieces;
  if (only !== undefined && pieces.length === 1) return only;
  const bytes = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}
