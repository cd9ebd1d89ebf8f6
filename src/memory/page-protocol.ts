/**
 * CRIU's page protocol: what `criu lazy-pages` asks a page server for, and what that answers (CRIU criu/page-xfer.c). Between agents, a
 * request for pages has the form of its GET, and what a round of memory could not read that of its HOLE.
 *
 * Pure: bytes in, plain data out. Every message begins with 32 bytes in host order: u32 command (its low 16 bits; flags above), 4
 * bytes of padding, u64 page count, u64 address, u64 process. A GET is answered by an ADD_F with the pages behind it, maybe fewer
 * than were asked for; answers come in the order of the GETs. A HOLE says that there are no such pages. CLOSE or FORCE_CLOSE is answered
 * by an i32 and ends the conversation.
 */
import { DmigrateError } from "../core/errors.ts";

export const PAGE_BYTES = 4096;
export const HEADER_BYTES = 32;

const HOLE = 2;
const ADD_F = 6;
const GET = 7;
const CLOSE = 0x1023;
/** What a client with a socket that it did not open itself sends instead. */
const FORCE_CLOSE = 0x1024;
/** PE_PRESENT (CRIU include/pagemap.h) among the flags of an ADD_F: its pages follow. */
const PRESENT = 4;
const ADD_PRESENT = (PRESENT << 16) | ADD_F;
const COMMANDS = { get: GET, pages: ADD_PRESENT, hole: HOLE } as const;

const KINDS: ReadonlyMap<number, keyof typeof COMMANDS> = new Map([
  [GET, "get"],
  [ADD_PRESENT, "pages"],
  [HOLE, "hole"],
]);

/** Successive pages of one process. */
export interface PageRun {
  /** The process id inside the container's namespace, as images are named. */
  readonly process: number;
  /** The first page: its address divided by the page size. */
  readonly page: number;
  readonly pageCount: number;
}

/** A message without the pages that may follow it. */
export type PageMessage = { readonly kind: keyof typeof COMMANDS; readonly run: PageRun } | { readonly kind: "close" };

/** The bytes of a message. */
export function encodeMessage(message: PageMessage): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES);
  if (message.kind === "close") {
    bytes.writeUInt32LE(CLOSE, 0);
    return bytes;
  }
  const { process, page, pageCount } = message.run;
  bytes.writeUInt32LE(COMMANDS[message.kind], 0);
  bytes.writeBigUInt64LE(BigInt(pageCount), 8);
  bytes.writeBigUInt64LE(BigInt(page) * BigInt(PAGE_BYTES), 16);
  bytes.writeBigUInt64LE(BigInt(process), 24);
  return bytes;
}

/** The reverse of `encodeMessage`. Throws PROTOCOL if the bytes are none of these messages. */
export function decodeMessage(bytes: Buffer): PageMessage {
  const command = bytes.readUInt32LE(0);
  if (command === CLOSE || command === FORCE_CLOSE) return { kind: "close" };
  const pageCount = Number(bytes.readBigUInt64LE(8));
  const page = Number(bytes.readBigUInt64LE(16)) / PAGE_BYTES;
  const process = Number(bytes.readBigUInt64LE(24));
  const kind = KINDS.get(command);
  if (kind === undefined || pageCount === 0 || ![pageCount, page, process].every(Number.isSafeInteger)) {
    const text = `Unknown message of CRIU's page protocol (${bytes.toString("hex")}); this CRIU is newer than this release of Dmigrate`;
    throw new DmigrateError("PROTOCOL", text);
  }
  return { kind, run: { process, page, pageCount } };
}

/** Finds messages in a stream that is cut anywhere. */
export class MessageReader {
  readonly #bytes = Buffer.alloc(HEADER_BYTES);
  #filled = 0;

  /** Reads `chunk` from `at` on, up to the end of a message or of the chunk; `next` is the place behind what was read. */
  read(chunk: Buffer, at: number): { readonly next: number; readonly message?: PageMessage } {
    const next = at + chunk.copy(this.#bytes, this.#filled, at);
    this.#filled += next - at;
    if (this.#filled < HEADER_BYTES) return { next };
    this.#filled = 0;
    return { next, message: decodeMessage(this.#bytes) };
  }
}
