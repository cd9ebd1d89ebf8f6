/**
 * The common form of CRIU's image files: two u32 magics, then entries of a u32 length and a protobuf message each (CRIU
 * criu/image.c, criu/protobuf.c; messages in images/*.proto).
 *
 * Pure: bytes in, plain data out. It walks the fields of a message without knowing them all.
 */
import { DmigrateError } from "../core/errors.ts";

const MAGICS_BYTES = 8;
const WIRE = { VARINT: 0n, FIXED64: 1n, BYTES: 2n, FIXED32: 5n } as const;

/** Where something begins and ends in an image. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/** A field of a message, and where its content is: of a number its varint, of a message or a string its bytes. */
export interface Field extends Span {
  readonly number: number;
  /** Of a number; 0n for others. */
  readonly value: bigint;
  /** Where its tag ends, which says its number. */
  readonly tagEnd: number;
}

/** The messages of an image. Throws PROTOCOL if the image is cut short. */
export function* entriesOf(image: Uint8Array): Generator<Span, void> {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  for (let offset = MAGICS_BYTES; offset < image.byteLength;) {
    if (offset + 4 > image.byteLength) throw malformed();
    const start = offset + 4;
    const end = start + view.getUint32(offset, true);
    if (end > image.byteLength) throw malformed();
    yield { start, end };
    offset = end;
  }
}

/** The fields of a message. Throws PROTOCOL if it is none. */
export function* fieldsOf(image: Uint8Array, start: number, end: number): Generator<Field, void> {
  for (let at = start; at < end;) {
    const key = readVarint(image, at, end);
    const number = Number(key.value >> 3n);
    const content = contentOf(image, key.value & 7n, key.next, end);
    yield { number, tagEnd: key.next, ...content };
    at = content.end;
  }
}

function contentOf(image: Uint8Array, wireType: bigint, at: number, end: number): Omit<Field, "number" | "tagEnd"> {
  switch (wireType) {
    case WIRE.VARINT: {
      const { value, next } = readVarint(image, at, end);
      return { value, start: at, end: next };
    }
    case WIRE.BYTES: {
      const { value: length, next } = readVarint(image, at, end);
      if (BigInt(end - next) < length) throw malformed();
      return { value: 0n, start: next, end: next + Number(length) };
    }
    case WIRE.FIXED64:
    case WIRE.FIXED32: {
      const next = at + (wireType === WIRE.FIXED64 ? 8 : 4);
      if (next > end) throw malformed();
      return { value: 0n, start: at, end: next };
    }
    default:
      throw malformed();
  }
}

function readVarint(image: Uint8Array, at: number, end: number): { value: bigint; next: number } {
  let value = 0n;
  for (let shift = 0n; shift < 64n && at < end; shift += 7n) {
    const byte = image[at++] ?? 0;
    value |= BigInt(byte & 0x7f) << shift;
    if (byte < 0x80) return { value, next: at };
  }
  throw malformed();
}

/** A field of a message that is a number. */
export function numberField(number: number, value: number | bigint): number[] {
  return [...varint(BigInt(number << 3)), ...varint(BigInt(value))];
}

export function varint(value: bigint): number[] {
  return value < 0x80n ? [Number(value)] : [Number(value & 0x7fn) | 0x80, ...varint(value >> 7n)];
}

function malformed(): DmigrateError {
  return new DmigrateError("PROTOCOL", "Malformed CRIU image; the CRIU of the source writes a format that this release does not know");
}
