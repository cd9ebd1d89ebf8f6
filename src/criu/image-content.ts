/**
 * Where in CRIU's images there are pages of content: in those of memory everywhere, in the archive of a tmpfs in its files (the ustar and
 * pax formats of POSIX, and GNU tar's format 1.0 for files with holes). Who takes something else for an archive, or reads one wrong, finds
 * pages that nobody knows, and no more.
 */
import { readSync } from "node:fs";

/** Bytes `start` up to the one before `end`. */
export interface ContentRange {
  readonly start: number;
  readonly end: number;
}

const MEMORY = /^pages-\d+\.img$/;
const ARCHIVE = /^tmpfs-.*\.tar\.gz\.img$/;
const BLOCK_BYTES = 512;
/** Where a header has what. */
const SIZE = { start: 124, end: 136 };
const TYPE = 156;
const MAGIC = { start: 257, end: 262 };
/** As a number instead of text. */
const IS_BINARY = 0x80;
/** A pax header is not longer. */
const PAX_BYTES_MAX = 1 << 20;

/** In order, as far as they can be found. */
export function* contentIn(name: string, fd: number, size: number): Generator<ContentRange, void> {
  if (MEMORY.test(name)) yield { start: 0, end: size };
  else if (ARCHIVE.test(name)) yield* filesInArchive(fd, size);
}

function* filesInArchive(fd: number, size: number): Generator<ContentRange, void> {
  const header = Buffer.alloc(BLOCK_BYTES);
  let pax = "";
  for (let at = 0; at + BLOCK_BYTES <= size;) {
    read(fd, header, at);
    if (header.toString("latin1", MAGIC.start, MAGIC.end) !== "ustar") return; // the end of the archive
    const start = at + BLOCK_BYTES;
    const length = Number(/^\d+ size=(\d+)$/m.exec(pax)?.[1] ?? sizeIn(header));
    const type = header.toString("latin1", TYPE, TYPE + 1);
    at = start + Math.ceil(length / BLOCK_BYTES) * BLOCK_BYTES;
    if (!(length >= 0 && at <= size)) return;
    if (type === "x") {
      pax = length > PAX_BYTES_MAX ? "" : read(fd, Buffer.alloc(length), start).toString("latin1");
      continue;
    }
    const isSparse = /^\d+ GNU\.sparse\.major=1$/m.test(pax);
    pax = "";
    if (type === "0") yield { start: start + (isSparse ? mapBytes(fd, start, length) : 0), end: start + length };
  }
}

/** How long the map of a file with holes is, which comes before what is in it: a number of pairs, and the pairs, each number in a line. */
function mapBytes(fd: number, start: number, length: number): number {
  const block = Buffer.alloc(BLOCK_BYTES);
  let [lines, wanted] = [0, 1];
  for (let at = 0; at < length; at += BLOCK_BYTES) {
    const content = read(fd, block, start + at).toString("latin1");
    if (at === 0) wanted = 1 + 2 * Number.parseInt(content, 10);
    lines += content.split("\n").length - 1;
    if (lines >= wanted) return Math.min(at + BLOCK_BYTES, length);
  }
  return length;
}

function sizeIn(header: Buffer): number {
  if (((header[SIZE.start] ?? 0) & IS_BINARY) !== 0) return Number(header.readBigUInt64BE(SIZE.end - 8));
  return Number.parseInt(header.toString("latin1", SIZE.start, SIZE.end), 8);
}

/** Fills it, as far as there is something. */
function read(fd: number, into: Buffer, at: number): Buffer {
  return into.subarray(0, readSync(fd, into, 0, into.length, at));
}
