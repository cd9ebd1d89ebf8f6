/**
 * Reads CRIU's pagemap images: which pages of an address space exist, and which of them are lazy.
 *
 * Pure: bytes in, plain data out. Format: two u32 magics, then entries of a u32 length and a protobuf message each; the
 * first is the head, the others are `pagemap_entry` (CRIU images/pagemap.proto: vaddr 1, compat_nr_pages 2, in_parent 3,
 * flags 4, nr_pages 5).
 */
import { DmigrateError } from "../core/errors.ts";

const MAGICS_BYTES = 8;
const FIELD = { VADDR: 1, COMPAT_PAGE_COUNT: 2, FLAGS: 4, PAGE_COUNT: 5 } as const;
/** Flag of a range whose pages the page server keeps (CRIU include/pagemap.h, PE_LAZY). */
const PE_LAZY = 2;

/** A range of pages of one address space. */
export interface PageRange {
  readonly address: bigint;
  readonly pageCount: number;
  readonly lazy: boolean;
}

/** Decodes a pagemap image. Throws PROTOCOL if it is cut short or no pagemap. */
export function decodePagemap(image: Uint8Array): PageRange[] {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  const ranges: PageRange[] = [];
  let offset = MAGICS_BYTES;
  for (let index = 0; offset < image.byteLength; index++) {
    if (offset + 4 > image.byteLength) throw malformed();
    const end = offset + 4 + view.getUint32(offset, true);
    if (end > image.byteLength) throw malformed();
    if (index > 0) ranges.push(decodeEntry(image, offset + 4, end));
    offset = end;
  }
  return ranges;
}

/** Number of lazy pages in a pagemap image. */
export function lazyPageCount(image: Uint8Array): number {
  return decodePagemap(image).reduce((sum, range) => sum + (range.lazy ? range.pageCount : 0), 0);
}

function decodeEntry(image: Uint8Array, start: number, end: number): PageRange {
  let address = 0n;
  let pageCount = 0;
  let flags = 0;
  for (let at = start; at < end;) {
    const key = readVarint(image, at, end);
    if ((key.value & 7n) !== 0n) throw malformed();
    const field = readVarint(image, key.next, end);
    at = field.next;
    switch (Number(key.value >> 3n)) {
      case FIELD.VADDR:
        address = field.value;
        break;
      case FIELD.COMPAT_PAGE_COUNT:
        if (pageCount === 0) pageCount = Number(field.value);
        break;
      case FIELD.FLAGS:
        flags = Number(field.value);
        break;
      case FIELD.PAGE_COUNT:
        pageCount = Number(field.value);
        break;
      default: // a field this does not need
    }
  }
  return { address, pageCount, lazy: (flags & PE_LAZY) !== 0 };
}

function readVarint(image: Uint8Array, at: number, end: number): { value: bigint; next: number } {
  let value = 0n;
  for (let shift = 0n; shift < 64n; shift += 7n) {
    const byte = image[at++];
    if (byte === undefined || at > end) throw malformed();
    value |= BigInt(byte & 0x7f) << shift;
    if (byte < 0x80) return { value, next: at };
  }
  throw malformed();
}

function malformed(): DmigrateError {
  return new DmigrateError("PROTOCOL", "Malformed pagemap image; the CRIU of the source writes a format that this release does not know");
}
