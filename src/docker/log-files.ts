/**
 * The files in which Docker Engine keeps what a container printed: which they are, sending them, and sending what was added since.
 *
 * A log is a current file and rotated ones: NAME, NAME.1, NAME.2, ... from the newest, those from 1 on compressed to NAME.1.gz if so
 * configured (moby's daemon/logger/loggerutils/logfile.go). A stream names files by that number alone, for names contain the
 * container's id. It consists of a frame for each file, oldest first, and one that ends it; a frame is, in big-endian order,
 *
 *     u32 number, u8 compressed, u32 number before, u48 offset, u48 length, and that many bytes
 *
 * The file that had the number before has this number now, and is continued at the offset; with NONE it is a new file. A file that no
 * frame names is gone.
 */
import { createWriteStream } from "node:fs";
import { mkdir, open, readdir, rename, rm, stat, type FileHandle } from "node:fs/promises";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { createGunzip } from "node:zlib";
import { DmigrateError } from "../core/errors.ts";
import type { ContainerId } from "../core/ids.ts";
import { ByteReader } from "../core/byte-reader.ts";
import { decodeEntries, encodeOutput, type LogFormat } from "./log-entries.ts";

/** The log of a container on a host. */
export interface LogPlace {
  /** Of the current file. */
  readonly path: string;
  readonly format: LogFormat;
  /** Whether they are the log itself, and not a copy beside a log that is kept elsewhere. */
  readonly isLog: boolean;
}

/**
 * Where the engine keeps what a container printed; undefined if it keeps nothing.
 * @param rootDir `DockerRootDir` of the engine
 * @param driver type of the container's log driver
 */
export function logPlace(rootDir: string, id: ContainerId, driver: string): LogPlace | undefined {
  const folder = path.join(rootDir, "containers", id);
  switch (driver) {
    case "json-file":
      return { path: path.join(folder, `${id}-json.log`), format: "json-file", isLog: true };
    case "local":
      return { path: path.join(folder, "local-logs", "container.log"), format: "local", isLog: true };
    case "none":
    case "journald":
      return undefined;
    default:
      // Beside a driver that can't be read the engine keeps a cache for `docker logs`.
      return { path: path.join(folder, "container-cached.log"), format: "local", isLog: false };
  }
}

/** What a file is in its log; 0 is the current one. */
interface Slot {
  readonly number: number;
  readonly compressed: boolean;
}

/** A file of a log, held open: so it stays readable when it is rotated away, and its inode number its own. */
interface LogFile extends Slot {
  readonly handle: FileHandle;
  readonly device: bigint;
  readonly inode: bigint;
  /** When it was opened; the current one grows. */
  readonly size: number;
}

/** Reads a container's log on its source, and knows how much of it was sent. */
export class LogHistory implements AsyncDisposable {
  readonly #place: LogPlace;
  #sent: readonly LogFile[] = [];

  constructor(place: LogPlace) {
    this.#place = place;
  }

  /**
   * The log's files as they are now, for `applyLogFiles`: all of it the first time, after that what changed since the last stream that
   * was read to its end.
   */
  async *files(): AsyncGenerator<Uint8Array, void> {
    let unused: readonly LogFile[] = await openLog(this.#place);
    try {
      for (const file of unused) {
        const before = this.#sent.find((sent) => isSame(sent, file) && sent.size <= file.size);
        const offset = before?.size ?? 0;
        yield encodeFrame({ ...file, before: before?.number, offset, length: file.size - offset });
        yield* bytesOf(file, offset, file.size);
      }
      yield END;
      [unused, this.#sent] = [this.#sent, unused];
    } finally {
      await closeAll(unused);
    }
  }

  /**
   * What was printed since the last `files()`, for `replayOutput`. Nothing if the log is kept elsewhere: it has got there already.
   */
  async *output(): AsyncGenerator<Uint8Array, void> {
    if (!this.#place.isLog) return;
    const files = await openLog(this.#place);
    try {
      for await (const content of this.#addedSince(files)) {
        for await (const entry of decodeEntries(this.#place.format, content)) yield encodeOutput(entry);
      }
    } finally {
      await closeAll(files);
    }
  }

  async *#addedSince(files: readonly LogFile[]): AsyncGenerator<AsyncIterable<Uint8Array>, void> {
    const current = this.#sent.find(({ number }) => number === 0);
    if (current !== undefined) yield bytesOf(current, current.size);
    for (const file of files) {
      if (this.#sent.some((sent) => isSame(sent, file))) continue;
      if (file.compressed && (await this.#isCopy(file))) continue;
      yield expanded(file);
    }
  }

  /** Whether it is what became of a file that was sent before it was compressed. Entries bear times, so the beginning tells. */
  async #isCopy(file: LogFile): Promise<boolean> {
    const beginning = await firstBytes(expanded(file));
    for (const sent of this.#sent) {
      if (!sent.compressed && beginning.equals(await firstBytes(bytesOf(sent, 0)))) return true;
    }
    return false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await closeAll(this.#sent);
    this.#sent = [];
  }
}

/** All files of a log as they were at one moment, from the oldest. */
async function openLog(place: LogPlace): Promise<LogFile[]> {
  for (;;) {
    const files = await openSlots(place);
    const now = await openSlots(place);
    await closeAll(now);
    if (now.length === files.length && now.every((file, index) => isSameSlot(file, files[index]))) return files;
    await closeAll(files); // rotated meanwhile
  }
}

function isSameSlot(one: LogFile, other: LogFile | undefined): boolean {
  return other !== undefined && one.number === other.number && one.compressed === other.compressed && isSame(one, other);
}

function isSame(one: LogFile, other: LogFile): boolean {
  return one.device === other.device && one.inode === other.inode;
}

async function openSlots(place: LogPlace): Promise<LogFile[]> {
  const files: LogFile[] = [];
  for (const slot of await slotsOf(place.path)) {
    const handle = await open(slotPath(place.path, slot)).catch(() => undefined);
    if (handle === undefined) continue; // rotated away meanwhile
    const size = slot.number === 0 ? await wholeSize(handle, place.format) : (await handle.stat()).size;
    const { dev, ino } = await handle.stat({ bigint: true });
    files.push({ ...slot, handle, device: dev, inode: ino, size });
  }
  return files;
}

/** Slots in use, from the oldest. While a file is being compressed there are two of it; the complete one counts. */
async function slotsOf(logPath: string): Promise<Slot[]> {
  const slots = await filesOf(logPath);
  const complete = slots.filter(
    ({ number, compressed }) => !compressed || !slots.some((other) => other.number === number && !other.compressed),
  );
  return complete.toSorted((one, other) => other.number - one.number);
}

/** All files of a log, whatever state they are in. */
async function filesOf(logPath: string): Promise<Slot[]> {
  const names = await readdir(path.dirname(logPath)).catch(() => []);
  const current = path.basename(logPath);
  return names.flatMap((name): Slot[] => {
    if (name === current) return [{ number: 0, compressed: false }];
    const match = name.startsWith(current) ? /^\.([1-9]\d{0,5})(\.gz)?$/.exec(name.slice(current.length)) : null;
    return match === null ? [] : [{ number: Number(match[1]), compressed: match[2] !== undefined }];
  });
}

function slotPath(logPath: string, { number, compressed }: Slot): string {
  return number === 0 ? logPath : `${logPath}.${number}${compressed ? ".gz" : ""}`;
}

const SETTLE_TRIES = 20;

/** Size of a file that ends with a whole entry. The engine writes an entry at once, yet a reader can see it half written. */
async function wholeSize(handle: FileHandle, format: LogFormat): Promise<number> {
  for (let tries = 1; ; tries++) {
    const { size } = await handle.stat();
    // What no writer completes was left by a crash of the engine.
    if (tries === SETTLE_TRIES || (await endsWhole(handle, size, format))) return size;
    await sleep(1);
  }
}

async function endsWhole(handle: FileHandle, size: number, format: LogFormat): Promise<boolean> {
  if (size === 0) return true;
  if (format === "json-file") return (await readAt(handle, size - 1, 1)).toString() === "\n";
  const length = size < 8 ? 0 : (await readAt(handle, size - 4, 4)).readUInt32BE();
  return length + 8 <= size && (await readAt(handle, size - length - 8, 4)).readUInt32BE() === length;
}

async function readAt(handle: FileHandle, position: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  await handle.read(bytes, 0, length, position);
  return bytes;
}

const CHUNK_BYTES = 256 * 1024;

/** Bytes of a file from one offset to another; to its end as it is now if none is given. */
async function* bytesOf({ handle }: LogFile, from: number, to = Infinity): AsyncGenerator<Uint8Array, void> {
  for (let at = from; at < to;) {
    const chunk = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, to - at));
    const { bytesRead } = await handle.read(chunk, 0, chunk.length, at);
    if (bytesRead === 0 && to !== Infinity) throw new DmigrateError("TRANSFER_FAILED", "A log became shorter while it was sent; try again");
    if (bytesRead === 0) return;
    at += bytesRead;
    yield chunk.subarray(0, bytesRead);
  }
}

async function* expanded(file: LogFile): AsyncGenerator<Uint8Array, void> {
  if (!file.compressed) return yield* bytesOf(file, 0);
  const gunzip = createGunzip();
  const read = pipeline(bytesOf(file, 0), gunzip);
  read.catch(() => {}); // `gunzip` fails with the same error
  for await (const chunk of gunzip) yield chunk;
  await read;
}

const BEGINNING_BYTES = 256;

async function firstBytes(content: AsyncIterable<Uint8Array>): Promise<Buffer> {
  let beginning = Buffer.alloc(0);
  for await (const chunk of content) {
    beginning = Buffer.concat([beginning, chunk]);
    if (beginning.length >= BEGINNING_BYTES) break;
  }
  return beginning.subarray(0, BEGINNING_BYTES);
}

async function closeAll(files: readonly LogFile[]): Promise<void> {
  await Promise.all(files.map(({ handle }) => handle.close()));
}

interface Frame extends Slot {
  /** The number it had before; undefined for a new file. */
  readonly before: number | undefined;
  readonly offset: number;
  readonly length: number;
}

const FRAME_BYTES = 21;
const NONE = 0xff_ff_ff_ff;
const END: Uint8Array = new Uint8Array(FRAME_BYTES).fill(0xff);
/** More than any engine keeps. */
const NUMBER_MAX = 1_000_000;

function encodeFrame({ number, compressed, before, offset, length }: Frame): Uint8Array {
  const bytes = Buffer.alloc(FRAME_BYTES);
  bytes.writeUInt32BE(number, 0);
  bytes.writeUInt8(compressed ? 1 : 0, 4);
  bytes.writeUInt32BE(before ?? NONE, 5);
  bytes.writeUIntBE(offset, 9, 6);
  bytes.writeUIntBE(length, 15, 6);
  return bytes;
}

/** Undefined for the frame that ends the stream. Throws PROTOCOL. */
function decodeFrame(bytes: Buffer): Frame | undefined {
  if (bytes.equals(END)) return undefined;
  const before = bytes.readUInt32BE(5);
  const frame = {
    number: bytes.readUInt32BE(0),
    compressed: bytes.readUInt8(4) === 1,
    before: before === NONE ? undefined : before,
    offset: bytes.readUIntBE(9, 6),
    length: bytes.readUIntBE(15, 6),
  };
  const { number, compressed, offset } = frame;
  const isPossible =
    number <= NUMBER_MAX && !(compressed && number === 0) && (frame.before ?? 0) <= number && (frame.before !== undefined || offset === 0);
  if (isPossible) return frame;
  throw impossibleFrame();
}

function impossibleFrame(): DmigrateError {
  return new DmigrateError("PROTOCOL", "The source sent an impossible frame of a log; update both agents to the same release");
}

/**
 * Brings a log to the state of its source. Only before the container is started for the first time: from then on the engine counts
 * what it writes, and shows no more than it counted.
 * @throws PROTOCOL, TRANSFER_FAILED for a stream that does not fit
 */
export async function applyLogFiles(place: LogPlace, stream: AsyncIterable<Uint8Array>): Promise<void> {
  await mkdir(path.dirname(place.path), { recursive: true, mode: 0o700 });
  await using reader = new ByteReader(stream);
  const named = new Set<string>();
  for (let frame = decodeFrame(await reader.take(FRAME_BYTES)); frame !== undefined; frame = decodeFrame(await reader.take(FRAME_BYTES))) {
    const file = slotPath(place.path, frame);
    named.add(file);
    if (frame.before !== undefined) await takeOver(slotPath(place.path, { ...frame, number: frame.before }), file, frame.offset);
    const flags = frame.before === undefined ? "w" : "a";
    await pipeline(reader.stream(frame.length), createWriteStream(file, { flags, mode: 0o640 }));
  }
  if (!(await reader.atEnd())) throw impossibleFrame();
  for (const slot of await filesOf(place.path)) {
    const file = slotPath(place.path, slot);
    if (!named.has(file)) await rm(file);
  }
}

/** Gives a file the name it is continued under. Oldest first, as in a rotation, that name is free or its file to be replaced. */
async function takeOver(before: string, now: string, size: number): Promise<void> {
  const found = await stat(before).catch(() => undefined);
  if (found?.size !== size) {
    throw new DmigrateError("PROTOCOL", `The source continues ${before} at ${size}, which is not its end; start the migration again`);
  }
  await rename(before, now);
}
