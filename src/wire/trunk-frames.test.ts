/** Frames come out of their bytes as they went in, however these are cut; what is none, or was damaged, is refused. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32 } from "node:zlib";
import * as fc from "fast-check";
import { DmigrateError } from "../core/errors.ts";
import { TRANSFER_CLASSES } from "../core/schedule.ts";
import {
  encodeTrunkFrame,
  PAGES_OFFSET,
  sealPages,
  TRUNK_DATA_BYTES_MAX,
  TRUNK_HEADER_BYTES,
  TrunkDecoder,
  type FrameContent,
  type PlainContent,
  type TrunkFrame,
} from "./trunk-frames.ts";

const u32 = fc.nat(0xff_ff_ff_ff);
const data = fc.array(fc.uint8Array({ minLength: 1, maxLength: 300 }), { minLength: 1, maxLength: 4 });
const content: fc.Arbitrary<PlainContent> = fc.oneof(
  data.map((pieces): PlainContent => ({ kind: "data", pieces, byteCount: pieces.reduce((sum, { length }) => sum + length, 0) })),
  fc.constantFrom<PlainContent>({ kind: "end" }, { kind: "accepted" }, { kind: "reset" }),
  fc.record({
    kind: fc.constant("open" as const),
    name: fc.string({ unit: fc.constantFrom("a", "/", "7"), minLength: 1, maxLength: 64 }),
    transferClass: fc.constantFrom(...TRANSFER_CLASSES),
  }),
  fc.string().map((text): PlainContent => ({ kind: "reset", reason: new DmigrateError("NO_SPACE", text) })),
  fc.nat(Number.MAX_SAFE_INTEGER).map((takenBytes): PlainContent => ({ kind: "credit", takenBytes })),
);
const pages: fc.Arbitrary<FrameContent> = fc.record({
  kind: fc.constant("pages" as const),
  process: u32,
  page: fc.nat(2 ** 40),
  bytes: fc.tuple(fc.integer({ min: 1, max: 16 }), fc.nat(255)).map(([count, value]) => new Uint8Array(count * 4096).fill(value)),
});
const plainFrame: fc.Arbitrary<TrunkFrame> = fc.record({ stream: u32, place: u32, content });
const frame: fc.Arbitrary<TrunkFrame> = fc.oneof(
  { weight: 4, arbitrary: plainFrame },
  { weight: 1, arbitrary: fc.record({ stream: u32, place: fc.constant(0), content: pages }) },
);

function bytesOf(frames: readonly TrunkFrame[]): Buffer {
  return Buffer.concat(
    frames.flatMap(({ stream, place, content: of }) => {
      if (of.kind !== "pages") return encodeTrunkFrame({ stream, place, content: of }, crc32);
      const buffer = Buffer.alloc(PAGES_OFFSET + 16 * 4096);
      buffer.set(of.bytes, PAGES_OFFSET);
      return [sealPages(buffer, { stream, process: of.process, page: of.page, pageCount: of.bytes.length / 4096 }, crc32)];
    }),
  );
}

/** A frame in a form that compares: data as one piece. */
function comparable({ content: of, ...rest }: TrunkFrame): unknown {
  if (of.kind === "data") return { ...rest, kind: of.kind, bytes: Buffer.concat(of.pieces).toString("hex"), byteCount: of.byteCount };
  if (of.kind === "pages") return { ...rest, ...of, bytes: Buffer.from(of.bytes).toString("hex") };
  if (of.kind === "reset") return { ...rest, kind: of.kind, code: of.reason?.code, message: of.reason?.message };
  return { ...rest, ...of };
}

/** Each frame is looked at before the next one is asked for, and the chunks' memory is used for others at once, as a receiver does. */
function decode(chunks: readonly Uint8Array[]): unknown[] {
  const decoder = new TrunkDecoder(crc32);
  return chunks.flatMap((chunk) => {
    const memory = Uint8Array.from(chunk);
    const frames: unknown[] = [];
    for (const each of decoder.decode(memory)) frames.push(comparable(each));
    memory.fill(0xee);
    return frames;
  });
}

test("frames come out as they went in, wherever their bytes are cut", () => {
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 6 }), fc.array(fc.nat(100_000)), (frames, cuts) => {
      const bytes = bytesOf(frames);
      const ends = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].toSorted((a, b) => a - b);
      const chunks = [...ends, bytes.length].map((end, index) => bytes.subarray(ends[index - 1] ?? 0, end));
      assert.deepEqual(decode(chunks), frames.map(comparable));
    }),
  );
});

test("a frame in which any bit was changed is none", () => {
  fc.assert(
    fc.property(plainFrame, fc.nat(), fc.nat(7), (each, at, bit) => {
      const bytes = bytesOf([each]);
      const index = at % bytes.length;
      bytes[index] = (bytes[index] ?? 0) ^ (1 << bit);
      // With another length it may be that more is waited for.
      let frames: unknown[] = [];
      try {
        frames = decode([bytes]);
      } catch (error) {
        assert.ok(error instanceof DmigrateError && error.code === "PROTOCOL", String(error));
      }
      assert.deepEqual(frames, []);
    }),
  );
});

test("what its kind can't be long is refused by its header alone", () => {
  const header = (kind: number, length: number): Buffer => {
    const bytes = Buffer.alloc(TRUNK_HEADER_BYTES);
    bytes.writeUInt32BE(kind * 2 ** 24 + length);
    return bytes;
  };
  const longest: readonly [kind: number, length: number][] = [
    [0, TRUNK_DATA_BYTES_MAX],
    [1, 0],
    [2, 65],
    [3, 0],
    [4, 0xff_ff],
    [5, 8],
    [6, 12 + 16 * 4096],
  ];
  for (const [kind, length] of [
    [0, 0],
    [2, 1],
    [5, 7],
    [6, 0],
    [6, 12],
    [6, 13 + 4096],
    [7, 0],
    [255, 1],
    ...longest.map(([of, most]) => [of, most + 1] as const),
  ] as const) {
    assert.throws(() => decode([header(kind, length)]), { code: "PROTOCOL", message: new RegExp(`kind ${kind} with ${length} bytes`) });
  }
});

test("a class that is none is refused", () => {
  const [header, of, name] = encodeTrunkFrame({ stream: 1, place: 0, content: { kind: "open", name: "x", transferClass: "files" } }, crc32);
  assert.ok(of !== undefined && name !== undefined);
  of[0] = TRANSFER_CLASSES.length;
  Buffer.from(header.buffer).writeUInt32BE(crc32(name, crc32(of, crc32(header.subarray(0, 12)))), 12);
  assert.throws(() => decode([header, of, name]), { code: "PROTOCOL", message: /class 6, which is none/ });
});
