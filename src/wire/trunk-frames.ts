/**
 * Frames of a trunk: what its connections carry after their hellos, in both directions. Pure: bytes in, plain data out.
 *
 * Numbers are big-endian; a frame has these 16 bytes, then its payload:
 *
 *     offset  bytes  content
 *          0      1  kind; with 128 added if the payload is packed (zstd, RFC 8878): of data all of it, of pages their memory
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
 *     6 pages      process (4 bytes), number of the first page (8 bytes), which pages are zeros (8 bytes: a bit for each, the lowest of the
 *                  first byte for the first), then the memory of the others; 1 to 64 pages in all
 *
 * The frames of a stream take any of the connections; their places say in which order they belong. What opens streams, the resets of such
 * as are not accepted yet, and credits take the first one. A sender has no more data on its way than its receiver's window, counted from
 * the bytes that this has taken. Pages say themselves where they belong: their receiver takes them as they come, and what was sent behind
 * them when all of them are there. They are not counted, since their receiver keeps none of them waiting.
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
/** The most pages in a frame. */
export const FRAME_PAGES_MAX = 64;
/** Where a frame of pages says which are zeros: after process and page. */
const ZEROS_AT = 12;
const ZEROS_BYTES = FRAME_PAGES_MAX / 8;
/** What a frame of pages has before them. */
const PAGES_AT = ZEROS_AT + ZEROS_BYTES;
/** Where the pages begin in a frame that `sealPages` makes. */
export const PAGES_OFFSET: number = TRUNK_HEADER_BYTES + PAGES_AT;
const CHECKED_BYTES = 12;
/** No frame is longer. */
export const TRUNK_FRAME_BYTES_MAX: number = PAGES_OFFSET + FRAME_PAGES_MAX * PAGE_BYTES;
/** So much room is enough for a frame of any kind; one of pages is as long as its room. */
export const TRUNK_FRAME_BYTES_SHORT: number = PAGES_OFFSET + TRUNK_DATA_BYTES_MAX;

const KINDS = ["data", "end", "open", "accepted", "reset", "credit", "pages"] as const;
type Kind = (typeof KINDS)[number];
const PAGES = KINDS.indexOf("pages");
/** Of a kind. */
const PACKED = 128;
/** Those that can be packed. */
const PACKABLE: readonly Kind[] = ["data", "pages"];

/** Shortest and longest payload. */
const LENGTHS: Readonly<Record<Kind, readonly [number, number]>> = {
  data: [1, TRUNK_DATA_BYTES_MAX],
  end: [0, 0],
  open: [2, 1 + NAME_BYTES_MAX],
  accepted: [0, 0],
  reset: [0, FAILURE_BYTES_MAX],
  credit: [CREDIT_BYTES, CREDIT_BYTES],
  pages: [PAGES_AT, PAGES_AT + FRAME_PAGES_MAX * PAGE_BYTES],
};

/** zlib's `crc32`: goes on from the checksum of what came before. */
export type Checksum = (bytes: Uint8Array, before?: number) => number;
/** The reverse of what packed the payload. Throws if the bytes are none, or would be more than so many. */
export type Unpack = (bytes: Uint8Array, byteCountMax: number) => Uint8Array;

/** Successive pages of one process: `page` is the address of the first one, divided by the page size. */
export interface PageSpan {
  readonly process: number;
  readonly page: number;
  readonly pageCount: number;
}

/** Pages of a frame. */
export interface FramePages extends PageSpan {
  /** A bit for each that holds nothing but zeros, the lowest of the first byte for the first page. */
  readonly zeros: Uint8Array;
  /** The memory of the others. */
  readonly bytes: Uint8Array;
}

/** The pages of a frame in runs of the same kind, in their order; of zeros there are no bytes. */
export function* pageRuns({ process, page, pageCount, zeros, bytes }: FramePages): Generator<{ span: PageSpan; bytes?: Uint8Array }, void> {
  if (bytes.length === pageCount * PAGE_BYTES) return yield { span: { process, page, pageCount }, bytes };
  for (let [nth, at] = [0, 0]; nth < pageCount;) {
    let count = 1;
    while (nth + count < pageCount && hasBit(zeros, nth + count) === hasBit(zeros, nth)) count += 1;
    const span = { process, page: page + nth, pageCount: count };
    if (hasBit(zeros, nth)) yield { span };
    else yield { span, bytes: bytes.subarray(at, (at += count * PAGE_BYTES)) };
    nth += count;
  }
}

/** What a frame says. What was decoded is one piece, or pages. */
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

/** Writes a frame into a buffer, from its beginning on. Returns how long it is. Throws RangeError if there is no room for it. */
export function writeTrunkFrame(into: Uint8Array, { stream, place, content }: PlainFrame, checksum: Checksum): number {
  let at = TRUNK_HEADER_BYTES;
  for (const piece of payloadOf(content)) {
    into.set(piece, at);
    at += piece.length;
  }
  writeHeader(into, content.kind, at - TRUNK_HEADER_BYTES, stream, place);
  viewOf(into).setUint32(CHECKED_BYTES, checksumOf(into, into.subarray(TRUNK_HEADER_BYTES, at), checksum));
  return at;
}

/**
 * Makes a frame of pages where they lie, and drops those of zeros.
 * @param into has the pages from `PAGES_OFFSET` on
 * @returns how long the frame is
 */
export function sealPages(
  into: Uint8Array,
  { stream, place, process, page, pageCount }: PageSpan & { readonly stream: number; readonly place: number },
  checksum: Checksum,
): number {
  const end = dropZeros(into, pageCount);
  const view = viewOf(into);
  writeHeader(into, "pages", end - TRUNK_HEADER_BYTES, stream, place);
  view.setUint32(TRUNK_HEADER_BYTES, process);
  view.setBigUint64(TRUNK_HEADER_BYTES + 4, BigInt(page));
  view.setUint32(CHECKED_BYTES, checksumOf(into, into.subarray(TRUNK_HEADER_BYTES, PAGES_OFFSET), checksum));
  return end;
}

/**
 * Puts something shorter in the place of the payload of a frame of data or pages.
 * @param into has the frame
 * @param packed what `packable` gave, packed
 * @returns how long the frame is now
 */
export function repackFrame(into: Uint8Array, packed: Uint8Array, checksum: Checksum): number {
  const view = viewOf(into);
  const at = into[0] === PAGES ? PAGES_OFFSET : TRUNK_HEADER_BYTES;
  into.set(packed, at);
  const end = at + packed.length;
  const kind = (into[0] ?? 0) | PACKED;
  view.setUint32(0, kind * 2 ** 24 + end - TRUNK_HEADER_BYTES);
  view.setUint32(CHECKED_BYTES, checksumOf(into, checkedOf(kind, into.subarray(TRUNK_HEADER_BYTES, end)), checksum));
  return end;
}

/** The part of a frame of data or pages that can be packed. */
export function packable(frame: Uint8Array): Uint8Array {
  return frame.subarray(frame[0] === PAGES ? PAGES_OFFSET : TRUNK_HEADER_BYTES);
}

const ZERO_PAGE = new Uint8Array(PAGE_BYTES);
/** Most pages that are not zeros show it in one of these bytes. */
const PROBES = [0, 8, 64, 512, 1024, 2048, 3072, PAGE_BYTES - 1];

/** Moves pages together over those of zeros, and notes which these were. Returns where the others end. */
function dropZeros(into: Uint8Array, pageCount: number): number {
  const zeros = into.subarray(PAGES_OFFSET - ZEROS_BYTES, PAGES_OFFSET).fill(0);
  let end = PAGES_OFFSET;
  for (let nth = 0; nth < pageCount; nth++) {
    const at = PAGES_OFFSET + nth * PAGE_BYTES;
    if (isZeroPage(into, at)) {
      zeros[nth >> 3] = (zeros[nth >> 3] ?? 0) | (1 << (nth & 7));
      continue;
    }
    if (at > end) into.copyWithin(end, at, at + PAGE_BYTES);
    end += PAGE_BYTES;
  }
  return end;
}

function isZeroPage(bytes: Uint8Array, at: number): boolean {
  for (const probe of PROBES) if (bytes[at + probe] !== 0) return false;
  return Buffer.compare(bytes.subarray(at, at + PAGE_BYTES), ZERO_PAGE) === 0;
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

function checksumOf(header: Uint8Array, payload: Uint8Array, checksum: Checksum): number {
  return checksum(payload, checksum(header.subarray(0, CHECKED_BYTES)));
}

/**
 * Takes the frames out of bytes of one connection, as many as are whole, and gives each to `take`, valid during the call. Returns how many
 * bytes they were: the others are to be given again with what follows them. Throws PROTOCOL for what is no frame, as soon as its header is
 * there, and for one that was damaged on its way.
 */
export function decodeTrunkFrames(
  bytes: Uint8Array,
  { checksum, unpack }: { readonly checksum: Checksum; readonly unpack: Unpack },
  take: (frame: TrunkFrame) => void,
): number {
  const view = viewOf(bytes);
  let at = 0;
  while (bytes.length - at >= TRUNK_HEADER_BYTES) {
    const { kind, isPacked, length } = kindOf(view.getUint32(at));
    const end = at + TRUNK_HEADER_BYTES + length;
    if (end > bytes.length) break;
    const payload = bytes.subarray(at + TRUNK_HEADER_BYTES, end);
    const checked = checkedOf(KINDS.indexOf(kind), payload);
    if (view.getUint32(at + CHECKED_BYTES) !== checksumOf(bytes.subarray(at, at + CHECKED_BYTES), checked, checksum)) throw damaged();
    const content = contentOf(kind, isPacked ? unpacked(kind, payload, unpack) : payload);
    take({ stream: view.getUint32(at + 4), place: view.getUint32(at + 8), content });
    at = end;
  }
  return at;
}

function kindOf(word: number): { readonly kind: Kind; readonly isPacked: boolean; readonly length: number } {
  const isPacked = word >>> 24 >= PACKED;
  const kind = KINDS[(word >>> 24) % PACKED];
  const length = word & 0xff_ff_ff;
  const [shortest, longest] = kind === undefined || (isPacked && !PACKABLE.includes(kind)) ? [1, 0] : LENGTHS[kind];
  const isWhole = kind !== "pages" || isPacked || (length - PAGES_AT) % PAGE_BYTES === 0;
  if (kind !== undefined && length >= shortest && length <= longest && isWhole) return { kind, isPacked, length };
  throw new DmigrateError("PROTOCOL", `An agent sent what is no frame: kind ${word >>> 24} with ${length} bytes; ${SAME_RELEASE}`);
}

/** What of the payload the checksum is of. */
function checkedOf(kind: number, payload: Uint8Array): Uint8Array {
  return kind % PACKED === PAGES ? payload.subarray(0, PAGES_AT) : payload;
}

/** The payload as it was. Throws PROTOCOL. */
function unpacked(kind: Kind, payload: Uint8Array, unpack: Unpack): Uint8Array {
  const at = kind === "pages" ? PAGES_AT : 0;
  const [, longest] = LENGTHS[kind];
  try {
    const rest = unpack(payload.subarray(at), longest - at);
    if (kind === "data" && rest.length > 0 && rest.length <= longest) return rest;
    if (kind === "pages" && rest.length % PAGE_BYTES === 0 && rest.length <= longest - at) {
      const whole = new Uint8Array(at + rest.length);
      whole.set(payload.subarray(0, at));
      whole.set(rest, at);
      return whole;
    }
  } catch (error) {
    throw damaged(error);
  }
  throw damaged();
}

function damaged(cause?: unknown): DmigrateError {
  return new DmigrateError("PROTOCOL", "A frame was damaged on its way, or its sender has a fault; migrate again", cause);
}

function contentOf(kind: Kind, payload: Uint8Array): FrameContent {
  switch (kind) {
    case "data":
      return { kind, pieces: [payload], byteCount: payload.length };
    case "pages":
      return { kind, ...pagesOf(payload) };
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

function pagesOf(payload: Uint8Array): FramePages {
  const view = viewOf(payload);
  const [process, page, zeros] = [view.getUint32(0), Number(view.getBigUint64(4)), payload.subarray(ZEROS_AT, PAGES_AT)];
  const bytes = payload.subarray(PAGES_AT);
  const { count, end } = bitsOf(zeros);
  const pageCount = bytes.length / PAGE_BYTES + count;
  if (pageCount === 0 || pageCount > FRAME_PAGES_MAX || end > pageCount || !Number.isSafeInteger(page))
    throw new DmigrateError("PROTOCOL", `An agent sent a frame of ${pageCount} pages that can't be; ${SAME_RELEASE}`);
  return { process, page, pageCount, zeros, bytes };
}

/** How many bits are set, and behind which place there is none any more. */
function bitsOf(mask: Uint8Array): { readonly count: number; readonly end: number } {
  let [count, end] = [0, 0];
  for (let nth = 0; nth < mask.length * 8; nth++) {
    if (!hasBit(mask, nth)) continue;
    count += 1;
    end = nth + 1;
  }
  return { count, end };
}

function hasBit(mask: Uint8Array, nth: number): boolean {
  return ((mask[nth >> 3] ?? 0) & (1 << (nth & 7))) !== 0;
}
