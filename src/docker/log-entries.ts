/**
 * Entries of Docker Engine's log files, and the way back: having an engine log once more what they say was printed.
 */
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { constants, openSync } from "node:fs";
import { Socket } from "node:net";
import path from "node:path";
import * as z from "zod";
import { DmigrateError } from "../core/errors.ts";
import type { ContainerId } from "../core/ids.ts";
import { ByteReader } from "../core/byte-reader.ts";

/** How a log driver writes its entries. */
export type LogFormat = "json-file" | "local";

/** Where a container printed something. */
export type OutputName = "stdout" | "stderr";

/** Something that a container printed: a line with its end, or a part of one. */
export interface Output {
  readonly to: OutputName;
  readonly bytes: Uint8Array;
}

/** What the entries of a log say; one that is not complete at the end is left out. */
export function decodeEntries(format: LogFormat, content: AsyncIterable<Uint8Array>): AsyncGenerator<Output, void> {
  return format === "json-file" ? decodeJson(content) : decodeLocal(content);
}

const jsonEntry = z
  .string()
  .transform(parsedOrUndefined)
  .pipe(z.object({ log: z.string().default(""), stream: z.enum(["stdout", "stderr"]) }));
const NEWLINE = 0x0a;

/** One JSON object a line (moby's daemon/logger/jsonfilelog). */
async function* decodeJson(content: AsyncIterable<Uint8Array>): AsyncGenerator<Output, void> {
  for await (const line of portions(content, (buffer) => buffer.indexOf(NEWLINE) + 1)) {
    const { success, data } = jsonEntry.safeParse(line.toString());
    // A line that a crash of the engine cut off says nothing to the engine either.
    if (success) yield { to: data.stream, bytes: Buffer.from(data.log) };
  }
}

function parsedOrUndefined(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Length as u32, message `LogEntry`, length again (moby's daemon/logger/local). */
async function* decodeLocal(content: AsyncIterable<Uint8Array>): AsyncGenerator<Output, void> {
  for await (const entry of portions(content, framedBytes)) yield decodeLogEntry(entry.subarray(4, -4));
}

function framedBytes(buffer: Buffer): number {
  const length = buffer.length < 4 ? Infinity : buffer.readUInt32BE() + 8;
  return length <= buffer.length ? length : 0;
}

/** Cuts a stream in portions; `portionBytes` gives the length of the one a buffer begins with, 0 while it is not complete. */
async function* portions(content: AsyncIterable<Uint8Array>, portionBytes: (buffer: Buffer) => number): AsyncGenerator<Buffer, void> {
  let rest = Buffer.alloc(0);
  for await (const chunk of content) {
    rest = Buffer.concat([rest, chunk]);
    for (let length = portionBytes(rest); length > 0; length = portionBytes(rest)) {
      yield rest.subarray(0, length);
      rest = rest.subarray(length);
    }
  }
}

/** moby's api/types/plugins/logdriver/entry.proto. A line is kept without its end; of one in parts only the last part has it. */
function decodeLogEntry(message: Uint8Array): Output {
  const reader = new BinaryReader(message);
  let to: OutputName = "stdout";
  let line: Uint8Array = new Uint8Array();
  let ends = true;
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 1) to = reader.string() === "stderr" ? "stderr" : "stdout";
    else if (field === 3) line = reader.bytes();
    else if (field === 4) ends = !reader.bool();
    else if (field === 5) ends = isLastPart(reader.bytes());
    else reader.skip(wireType, field);
  }
  return { to, bytes: ends ? Buffer.concat([line, Buffer.of(NEWLINE)]) : line };
}

function isLastPart(metadata: Uint8Array): boolean {
  const reader = new BinaryReader(metadata);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 1) return reader.bool();
    reader.skip(wireType, field);
  }
  return false;
}

const HEAD_BYTES = 8;
const STREAM_BYTES_MAX = 1024 * 1024;
const STREAMS = { stdout: 1, stderr: 2 } as const;

/** A frame of the Engine's own output streams: the stream's number, three zeros, length as u32, and the bytes. */
export function encodeOutput({ to, bytes }: Output): Uint8Array {
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt8(STREAMS[to], 0);
  head.writeUInt32BE(bytes.length, 4);
  return Buffer.concat([head, bytes]);
}

/** The inverse over a whole stream. Throws PROTOCOL, TRANSFER_FAILED. */
export async function* decodeOutput(stream: AsyncIterable<Uint8Array>): AsyncGenerator<Output, void> {
  await using reader = new ByteReader(stream);
  while (!(await reader.atEnd())) {
    const head = await reader.take(HEAD_BYTES);
    const length = head.readUInt32BE(4);
    const number = head.readUInt8(0);
    if (length > STREAM_BYTES_MAX || (number !== STREAMS.stdout && number !== STREAMS.stderr)) {
      throw new DmigrateError("PROTOCOL", "The source sent impossible output of a container; update both agents to the same release");
    }
    yield { to: number === STREAMS.stdout ? "stdout" : "stderr", bytes: await reader.take(length) };
  }
}

/** Named pipes through which an engine gets what a container prints; a container with a terminal has only one. */
export type OutputPipes = Readonly<Record<OutputName, string>>;

/**
 * The pipes of a container that is started or being started (moby's libcontainerd/remote/client_linux.go, `newFIFOSet`).
 * @param execRoot `exec-root` of the engine
 */
export function outputPipes(id: ContainerId, execRoot = "/run/docker"): OutputPipes {
  const pipe = (name: OutputName): string => path.join(execRoot, "containerd", id, `${id}-${name}`);
  return { stdout: pipe("stdout"), stderr: pipe("stderr") };
}

/**
 * Has the engine log what its container printed elsewhere, with the time of now: while the container is held, for the engine has opened
 * the log files by then and takes no other entries. Returns when all of it has been written to the pipes. They stay open until what it
 * returns is disposed of, which must be after the container has started: the engine takes a pipe that its last writer closes for ended.
 * @throws DOCKER if no engine reads the pipes, PROTOCOL, TRANSFER_FAILED
 */
export async function replayOutput(pipes: OutputPipes, stream: AsyncIterable<Uint8Array>): Promise<Disposable> {
  using opened = new DisposableStack();
  const sinks = new Map<OutputName, Socket>();
  for await (const { to, bytes } of decodeOutput(stream)) {
    const sink = sinks.get(to) ?? opened.adopt(openPipe(pipes[to]), (pipe) => void pipe.destroy());
    sinks.set(to, sink);
    await new Promise<void>((resolve, reject) => void sink.write(bytes, (error) => (error ? reject(error) : resolve())));
  }
  return opened.move();
}

/** Opened so that it fails at once if nobody reads, fifo(7). */
function openPipe(pipe: string): Socket {
  try {
    return new Socket({ fd: openSync(pipe, constants.O_WRONLY | constants.O_NONBLOCK), readable: false, writable: true });
  } catch (error) {
    throw new DmigrateError(
      "DOCKER",
      `Docker Engine does not read what the container prints at ${pipe}; see that the container is being started`,
      error,
    );
  }
}
