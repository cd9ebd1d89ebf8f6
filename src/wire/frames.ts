/**
 * Frames: what a channel carries, in both directions. Pure: bytes in, plain data out.
 *
 * A frame is a kind (1 byte), a length (3 bytes, big-endian) and that many bytes of payload:
 *
 *     0 data    bytes of the stream, at least one
 *     1 end     the stream is complete; another may follow
 *     2 ok      the sender has done its part on this channel
 *     3 failed  the sender gives up: a JSON object { code, message }
 *
 * A connection that ends in a stream, before its `end`, was cut: nothing else looks like that.
 */
import { DmigrateError } from "../core/errors.ts";
import { decodeFailure, encodeFailure, SAME_RELEASE } from "./failure.ts";

/** Bytes before a frame's payload. */
export const FRAME_HEADER_BYTES = 4;
/** The longest payload of a data frame. */
export const DATA_BYTES_MAX = 0xff_ff_ff;
/** The longest payload of a failed frame. */
export const FAILURE_BYTES_MAX = 0xff_ff;

const DATA = 0;
const END = 1;
const OK = 2;
const FAILED = 3;

/** The header of a data frame; the payload is written after it, uncopied. Throws RangeError if it does not fit a frame. */
export function dataHeader(payloadBytes: number): Uint8Array {
  if (payloadBytes < 1 || payloadBytes > DATA_BYTES_MAX)
    throw new RangeError(`A data frame holds 1 to ${DATA_BYTES_MAX} bytes, not ${payloadBytes}`);
  return header(DATA, payloadBytes);
}

export const END_FRAME: Uint8Array = header(END, 0);
export const OK_FRAME: Uint8Array = header(OK, 0);

/** A whole failed frame; a message too long for it is cut. */
export function failedFrame(error: DmigrateError): Uint8Array {
  const payload = encodeFailure(error, FAILURE_BYTES_MAX);
  const frame = new Uint8Array(FRAME_HEADER_BYTES + payload.length);
  frame.set(header(FAILED, payload.length));
  frame.set(payload, FRAME_HEADER_BYTES);
  return frame;
}

/** What a decoder makes of the bytes it is given. `data` is a view into them, and a frame's payload may come in several pieces. */
export type FramePart =
  | { readonly kind: "data"; readonly bytes: Uint8Array }
  | { readonly kind: "end" }
  | { readonly kind: "ok" }
  | { readonly kind: "failed"; readonly error: DmigrateError };

/**
 * Decodes frames out of chunks cut anywhere. Throws PROTOCOL for what is no frame; a decoder that threw must not be used any more.
 */
export class FrameDecoder {
  /** Bytes of a header not yet whole, or of a failure not yet whole. */
  #gathered = new Uint8Array(FRAME_HEADER_BYTES);
  #gatheredBytes = 0;
  /** The frame whose payload is being read, if any; of data, how much of it is to come. */
  #kind: typeof DATA | typeof FAILED | undefined;
  #payloadBytes = 0;

  /** How many bytes more belong to what is being read: who reads only so many never reads too far. */
  get missingBytes(): number {
    return this.#kind === DATA ? this.#payloadBytes : this.#gathered.length - this.#gatheredBytes;
  }

  *decode(chunk: Uint8Array): Generator<FramePart, void> {
    let at = 0;
    while (at < chunk.length) {
      if (this.#kind === DATA) {
        const bytes = chunk.subarray(at, at + this.#payloadBytes);
        at += bytes.length;
        this.#payloadBytes -= bytes.length;
        if (this.#payloadBytes === 0) this.#expectHeader();
        yield { kind: "data", bytes };
        continue;
      }
      at += this.#gather(chunk.subarray(at));
      if (this.#gatheredBytes < this.#gathered.length) return;
      if (this.#kind === FAILED) {
        const error = decodeFailure(this.#gathered);
        this.#expectHeader();
        yield { kind: "failed", error };
      } else {
        const part = this.#readHeader();
        if (part !== undefined) yield part;
      }
    }
  }

  #gather(bytes: Uint8Array): number {
    const taken = bytes.subarray(0, this.#gathered.length - this.#gatheredBytes);
    this.#gathered.set(taken, this.#gatheredBytes);
    this.#gatheredBytes += taken.length;
    return taken.length;
  }

  #expectHeader(): void {
    this.#kind = undefined;
    this.#expect(FRAME_HEADER_BYTES);
  }

  #expect(bytes: number): void {
    this.#gathered = new Uint8Array(bytes);
    this.#gatheredBytes = 0;
  }

  /** Acts on the header just gathered; returns the frame if it has no payload. */
  #readHeader(): FramePart | undefined {
    const word = new DataView(this.#gathered.buffer).getUint32(0);
    const kind = word >>> 24;
    const length = word & DATA_BYTES_MAX;
    this.#gatheredBytes = 0;
    if (kind === END && length === 0) return { kind: "end" };
    if (kind === OK && length === 0) return { kind: "ok" };
    if (kind === DATA && length > 0) {
      this.#kind = DATA;
      this.#payloadBytes = length;
      return undefined;
    }
    if (kind === FAILED && length > 0 && length <= FAILURE_BYTES_MAX) {
      this.#kind = FAILED;
      this.#expect(length);
      return undefined;
    }
    throw new DmigrateError("PROTOCOL", `An agent sent what is no frame: kind ${kind} with ${length} bytes; ${SAME_RELEASE}`);
  }
}

function header(kind: number, payloadBytes: number): Uint8Array {
  const bytes = new Uint8Array(FRAME_HEADER_BYTES);
  new DataView(bytes.buffer).setUint32(0, kind * 2 ** 24 + payloadBytes);
  return bytes;
}
