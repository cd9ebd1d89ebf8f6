/**
 * CRIU's image files as one stream of bytes: each file is sent as it is closed, so that only the last one is left when the
 * dump is done.
 *
 * A file is: u8 length of its name, u48 length of its content (big endian), name, content. A file that is closed twice is sent twice;
 * the later one counts.
 */
import { closeSync, fchownSync, fstatSync, openSync, readSync, writeFileSync } from "node:fs";
import { stat } from "node:fs/promises";
import path from "node:path";
import { ByteReader } from "../core/byte-reader.ts";
import { DmigrateError } from "../core/errors.ts";

const CHUNK_BYTES = 256 * 1024;
const HEADER_BYTES = 7;
const FILE_BYTES_MAX = 2 ** 40;
const FILE_NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,120}$/;

/**
 * Sends the named files of a folder in the order in which the names come. A file that has vanished is left out. The container stands still
 * meanwhile: reading many small files that lie in memory takes a fraction of the time if nobody waits for any of them.
 * @param amended what to send in place of a file, if not what it holds
 */
export async function* sendImages(
  folder: string,
  names: AsyncIterable<string>,
  amended: (name: string) => Uint8Array | undefined = () => undefined,
): AsyncGenerator<Uint8Array, void> {
  for await (const name of names) {
    if (!FILE_NAME.test(name)) continue; // a temporary file of runc
    const content = amended(name);
    if (content !== undefined) {
      yield header(name, content.length);
      yield content;
      continue;
    }
    const file = openIfThere(path.join(folder, name));
    if (file === undefined) continue;
    try {
      const { size } = fstatSync(file);
      yield header(name, size);
      for (let sent = 0; sent < size;) {
        const chunk = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, size - sent));
        const bytesRead = readSync(file, chunk, 0, chunk.length, sent);
        if (bytesRead === 0)
          throw new DmigrateError(
            "DUMP_FAILED",
            `Image ${name} became shorter while it was sent; the container keeps running on the source`,
          );
        yield chunk.subarray(0, bytesRead);
        sent += bytesRead;
      }
    } finally {
      closeSync(file);
    }
  }
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
 * no image has, TRANSFER_FAILED for a stream that ends inside a file, NO_SPACE. However it ends, no file stays open. As for `sendImages`
 * nobody waits for any of these files.
 * @param arrived is told the name of each file once it is complete
 */
export async function receiveImages(
  stream: AsyncIterable<Uint8Array>,
  folder: string,
  arrived: (name: string) => void = () => {},
): Promise<void> {
  const { uid, gid } = await stat(folder);
  await using reader = new ByteReader(stream);
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
      for await (const chunk of reader.stream(size)) writeAll(folder, file, chunk);
    } finally {
      closeSync(file);
    }
    arrived(name);
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
