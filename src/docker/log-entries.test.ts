/**
 * Entries of log files, written as moby writes them, and output on its way to an engine.
 */
import assert from "node:assert/strict";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { execFileSync } from "node:child_process";
import { closeSync, constants, createReadStream, mkdtempSync, openSync, readSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import fc from "fast-check";
import { decodeEntries, decodeOutput, encodeOutput, replayOutput, type Output } from "./log-entries.ts";

const output: fc.Arbitrary<Output> = fc.record(
  { to: fc.constantFrom("stdout" as const, "stderr" as const), bytes: fc.uint8Array({ maxLength: 40 }) },
  { noNullPrototype: true },
);

/** The bytes in chunks of the given lengths, over and over. */
async function* chunked(bytes: Uint8Array, lengths: readonly number[]): AsyncGenerator<Uint8Array> {
  for (let at = 0, index = 0; at < bytes.length; index++) {
    const length = lengths[index % lengths.length] ?? 1;
    yield bytes.subarray(at, at + length);
    at += length;
  }
}

const chunkLengths = fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 5 });

async function collect(outputs: AsyncIterable<Output>): Promise<Output[]> {
  const all: Output[] = [];
  for await (const { to, bytes } of outputs) all.push({ to, bytes: Uint8Array.from(bytes) });
  return all;
}

test("output is read as it was written, however it is cut", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(output), chunkLengths, async (outputs, lengths) => {
      const bytes = Buffer.concat(outputs.map(encodeOutput));
      assert.deepEqual(await collect(decodeOutput(chunked(bytes, lengths))), outputs);
    }),
  );
});

test("output that is cut off or of no known stream is refused", async () => {
  const bytes = encodeOutput({ to: "stderr", bytes: Buffer.from("hello") });
  await assert.rejects(collect(decodeOutput(Readable.from([bytes.subarray(0, -1)]))), { code: "TRANSFER_FAILED" });
  await assert.rejects(collect(decodeOutput(Readable.from([bytes.subarray(0, 3)]))), { code: "TRANSFER_FAILED" });
  await assert.rejects(collect(decodeOutput(Readable.from([Buffer.alloc(8)]))), { code: "PROTOCOL" });
  await assert.rejects(collect(decodeOutput(Readable.from([Buffer.from([1, 0, 0, 0, 0xff, 0, 0, 0])]))), { code: "PROTOCOL" });
});

interface Line {
  readonly to: "stdout" | "stderr";
  readonly text: string;
  /** Undefined: a whole line; otherwise a part of one, and whether it is the last. */
  readonly last: boolean | undefined;
}

const line: fc.Arbitrary<Line> = fc.record({
  to: fc.constantFrom("stdout" as const, "stderr" as const),
  text: fc.string({ unit: "grapheme" }).map((value) => value.replaceAll("\n", "")),
  last: fc.constantFrom(undefined, true, false),
});

const ended = ({ text: content, last }: Line): string => (last === false ? content : `${content}\n`);

/** As daemon/logger/jsonfilelog of moby writes it. */
function jsonEntry(entry: Line): Buffer {
  const log = ended(entry);
  return Buffer.from(`${JSON.stringify({ ...(log === "" ? {} : { log }), stream: entry.to, time: "2026-01-01T00:00:00.000000001Z" })}\n`);
}

const { LengthDelimited: BYTES, Varint: VARINT } = WireType;

/** As daemon/logger/local of moby writes it. */
function localEntry({ to, text: content, last }: Line): Buffer {
  const message = new BinaryWriter().tag(1, BYTES).string(to).tag(2, VARINT).int64("1767225600000000001");
  message.tag(3, BYTES).bytes(Buffer.from(content));
  if (last !== undefined) {
    message.tag(4, VARINT).bool(true).tag(5, BYTES).fork();
    if (last) message.tag(1, VARINT).bool(true);
    message.tag(2, BYTES).string("id").tag(3, VARINT).int32(7).join();
  }
  const bytes = message.finish();
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes, length]);
}

for (const [format, encode] of [["json-file", jsonEntry] as const, ["local", localEntry] as const]) {
  test(`entries of ${format} say what was printed; one that is not complete is left out`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(line), chunkLengths, fc.nat(), async (lines, lengths, cut) => {
        const half = encode({ to: "stdout", text: "half", last: undefined });
        const bytes = Buffer.concat([...lines.map(encode), half.subarray(0, cut % half.length)]);
        const wanted = lines.map((entry) => ({ to: entry.to, bytes: Uint8Array.from(Buffer.from(ended(entry))) }));
        assert.deepEqual(await collect(decodeEntries(format, chunked(bytes, lengths))), wanted);
      }),
    );
  });
}

test("a line of JSON that a crash cut off is passed over", async () => {
  const content = Readable.from([
    Buffer.from('{"log":"lo{"log":"whole\\n","stream":"stdout"}\n'),
    jsonEntry({ to: "stderr", text: "next", last: undefined }),
  ]);
  assert.deepEqual(await collect(decodeEntries("json-file", content)), [{ to: "stderr", bytes: Uint8Array.from(Buffer.from("next\n")) }]);
});

test("output goes to the pipes it belongs to, more of it than a pipe holds", async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "dmigrate-pipes-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const pipes = { stdout: path.join(folder, "out"), stderr: path.join(folder, "err") };
  execFileSync("mkfifo", Object.values(pipes));
  const outputs = Array.from({ length: 3000 }, (_, n): Output => ({
    to: n % 3 === 0 ? "stderr" : "stdout",
    bytes: Buffer.from(`${"x".repeat(99)}${n}\n`),
  }));
  const read = Promise.all([pipes.stdout, pipes.stderr].map((pipe) => text(createReadStream(pipe))));
  await replayWhenRead(pipes, outputs);
  const [stdout, stderr] = await read;
  const sent = (to: Output["to"]): string => Buffer.concat(outputs.filter((one) => one.to === to).map(({ bytes }) => bytes)).toString();
  assert.equal(stdout, sent("stdout"));
  assert.equal(stderr, sent("stderr"));
});

/** A reader's open(2) of a named pipe waits for a writer, so whether it has begun can only be tried. */
async function replayWhenRead(pipes: { stdout: string; stderr: string }, outputs: readonly Output[]): Promise<void> {
  const holders = Object.values(pipes).map((pipe) => createReadStream(pipe, { flags: "r+" }));
  await Promise.all(holders.map((holder) => new Promise((resolve) => holder.once("open", resolve))));
  using _pipes = await replayOutput(pipes, Readable.from(outputs.map(encodeOutput)));
  for (const holder of holders) holder.destroy();
}

test("the pipes stay open until they are given back: their end would be the container's", async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "dmigrate-pipes-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const pipes = { stdout: path.join(folder, "out"), stderr: path.join(folder, "err") };
  execFileSync("mkfifo", Object.values(pipes));
  const reader = openSync(pipes.stdout, constants.O_RDONLY | constants.O_NONBLOCK);
  t.after(() => closeSync(reader));
  const replayed = await replayOutput(pipes, Readable.from([encodeOutput({ to: "stdout", bytes: Buffer.from("hello\n") })]));
  assert.equal(readSync(reader, Buffer.alloc(100)), 6);
  assert.throws(() => readSync(reader, Buffer.alloc(100)), { code: "EAGAIN" });
  replayed[Symbol.dispose]();
  await setImmediate();
  assert.equal(readSync(reader, Buffer.alloc(100)), 0);
});

test("pipes that nobody reads are an error, not a wait", async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "dmigrate-pipes-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const pipes = { stdout: path.join(folder, "out"), stderr: path.join(folder, "err") };
  execFileSync("mkfifo", Object.values(pipes));
  const stream = Readable.from([encodeOutput({ to: "stdout", bytes: Buffer.from("hello\n") })]);
  await assert.rejects(replayOutput(pipes, stream), { code: "DOCKER", message: /does not read/ });
});
