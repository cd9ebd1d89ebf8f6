/** Frames come out of their bytes as they went in, however these are cut; what is none, or was damaged, is refused. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32, zstdCompressSync } from "node:zlib";
import * as fc from "fast-check";
import { DmigrateError } from "../core/errors.ts";
import { TRANSFER_CLASSES } from "../core/schedule.ts";
import { FRAME_CODEC } from "../transfer/packer.ts";
import { Pile } from "../transfer/pile.ts";
import {
  decodeTrunkFrames,
  packable,
  pageRuns,
  PAGES_OFFSET,
  repackFrame,
  sealPages,
  TRUNK_DATA_BYTES_MAX,
  TRUNK_FRAME_BYTES_MAX,
  TRUNK_HEADER_BYTES,
  writeTrunkFrame,
  type FramePages,
  type PlainContent,
  type PlainFrame,
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
/** Pages, each of one value. */
interface PagesFrame {
  readonly stream: number;
  readonly place: number;
  readonly process: number;
  readonly page: number;
  readonly values: readonly number[];
}
const plainFrame: fc.Arbitrary<PlainFrame> = fc.record({ stream: u32, place: u32, content });
const pagesFrame: fc.Arbitrary<PagesFrame> = fc.record({
  stream: u32,
  place: u32,
  process: u32,
  page: fc.nat(2 ** 40),
  values: fc.array(fc.oneof(fc.constant(0), fc.nat(255)), { minLength: 1, maxLength: 64 }),
});
const frame: fc.Arbitrary<PlainFrame | PagesFrame> = fc.oneof({ weight: 4, arbitrary: plainFrame }, { weight: 1, arbitrary: pagesFrame });

function bytesOf(frames: readonly (PlainFrame | PagesFrame)[]): Buffer {
  return Buffer.concat(
    frames.map((each) => {
      const buffer = Buffer.alloc(TRUNK_FRAME_BYTES_MAX);
      if ("content" in each) return buffer.subarray(0, writeTrunkFrame(buffer, each, crc32));
      const { values, ...rest } = each;
      for (const [nth, value] of values.entries()) buffer.fill(value, PAGES_OFFSET + nth * 4096, PAGES_OFFSET + (nth + 1) * 4096);
      return buffer.subarray(0, sealPages(buffer, { ...rest, pageCount: values.length }, crc32));
    }),
  );
}

/** A frame in a form that compares: data as one piece, pages by their values. */
function comparable(each: TrunkFrame | PagesFrame): unknown {
  if (!("content" in each)) return { ...each };
  const { content: of, ...rest } = each;
  if (of.kind === "data") return { ...rest, kind: of.kind, bytes: Buffer.concat(of.pieces).toString("hex"), byteCount: of.byteCount };
  if (of.kind === "pages") return { ...rest, process: of.process, page: of.page, values: valuesOf(of) };
  if (of.kind === "reset") return { ...rest, kind: of.kind, code: of.reason?.code, message: of.reason?.message };
  return { ...rest, ...of };
}

function valuesOf(pages: FramePages): number[] {
  return [...pageRuns(pages)].flatMap(({ span, bytes }) =>
    Array.from({ length: span.pageCount }, (_, nth) => {
      if (bytes === undefined) return 0;
      const page = bytes.subarray(nth * 4096, (nth + 1) * 4096);
      assert.ok(page.length === 4096 && page[0] !== 0 && page.every((byte) => byte === page[0]));
      return page[0] ?? 0;
    }),
  );
}

/** Each frame is looked at while it is valid, and the memory is used for others at once, as a receiver does. */
function decode(chunks: readonly Uint8Array[]): unknown[] {
  const frames: unknown[] = [];
  const pile = new Pile((bytes) => {
    const memory = Uint8Array.from(bytes);
    const used = decodeTrunkFrames(memory, FRAME_CODEC, (each) => frames.push(comparable(each)));
    memory.fill(0xee);
    return used;
  });
  for (const chunk of chunks) pile.add(chunk);
  return frames;
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
    [6, 16 + 16 * 4096],
  ];
  for (const [kind, length] of [
    [0, 0],
    [2, 1],
    [5, 7],
    [6, 0],
    [6, 15],
    [6, 17 + 4096],
    [7, 0],
    [255, 1],
    ...longest.map(([of, most]) => [of, most + 1] as const),
  ] as const) {
    assert.throws(() => decode([header(kind, length)]), { code: "PROTOCOL", message: new RegExp(`kind ${kind} with ${length} bytes`) });
  }
});

test("a packed frame is what it was before, and what is packed wrongly is refused", () => {
  const pack = (bytes: Buffer, packed: (plain: Uint8Array) => Uint8Array): Buffer =>
    bytes.subarray(0, repackFrame(bytes, packed(Uint8Array.from(packable(bytes))), crc32));
  const room = (each: PlainFrame | PagesFrame): Buffer => Buffer.concat([bytesOf([each]), Buffer.alloc(100_000)]);
  const text: PlainFrame = { stream: 1, place: 7, content: { kind: "data", pieces: [Buffer.from("abc".repeat(900))], byteCount: 2700 } };
  const some: PagesFrame = { stream: 2, place: 8, process: 3, page: 4, values: [1, 0, 2, 2] };
  for (const each of [text, some]) {
    const plain = bytesOf([each]);
    const packed = pack(Buffer.concat([plain]), zstdCompressSync);
    assert.ok(packed.length < plain.length / 2);
    assert.deepEqual(decode([packed, plain]), [comparable(each), comparable(each)]);
    for (const wrong of [Buffer.alloc(40, 1), zstdCompressSync(Buffer.alloc(0)), zstdCompressSync(Buffer.alloc(70_000))])
      assert.throws(() => decode([pack(room(each), () => wrong)]), { code: "PROTOCOL" });
  }
  const nothing = bytesOf([{ stream: 1, place: 1, content: { kind: "end" } }]);
  nothing[0] = 129;
  assert.throws(() => decode([nothing]), { code: "PROTOCOL", message: /kind 129/ });
});

test("a class that is none is refused", () => {
  const bytes = bytesOf([{ stream: 1, place: 0, content: { kind: "open", name: "x", transferClass: "files" } }]);
  bytes[TRUNK_HEADER_BYTES] = TRANSFER_CLASSES.length;
  bytes.writeUInt32BE(crc32(bytes.subarray(TRUNK_HEADER_BYTES), crc32(bytes.subarray(0, 12))), 12);
  assert.throws(() => decode([bytes]), { code: "PROTOCOL", message: /class 6, which is none/ });
});

test("pages that no frame can have are refused", () => {
  const cases: readonly [zeros: bigint, values: readonly number[]][] = [
    [0n, []],
    [0b100n, [1]],
    [2n ** 64n - 1n, [1]],
    [2n ** 63n, []],
  ];
  for (const [zeros, values] of cases) {
    const bytes = bytesOf([{ stream: 1, place: 0, process: 1, page: 1, values: [...values, 0] }]);
    bytes.writeBigUInt64LE(zeros, PAGES_OFFSET - 8);
    bytes.writeUInt32BE(crc32(bytes.subarray(TRUNK_HEADER_BYTES, PAGES_OFFSET), crc32(bytes.subarray(0, 12))), 12);
    assert.throws(() => decode([bytes]), { code: "PROTOCOL", message: /pages that can't be/ }, `${zeros} ${values.length}`);
  }
});

test("zeros cross without their memory, whatever else is on a page shows that it is none", () => {
  fc.assert(
    fc.property(fc.nat(4095), fc.integer({ min: 1, max: 255 }), (at, value) => {
      const buffer = Buffer.alloc(TRUNK_FRAME_BYTES_MAX);
      buffer[PAGES_OFFSET + 4096 + at] = value;
      const byteCount = sealPages(buffer, { stream: 1, place: 0, process: 1, page: 1, pageCount: 3 }, crc32);
      assert.equal(byteCount, PAGES_OFFSET + 4096);
      assert.equal(buffer[PAGES_OFFSET + at], value);
    }),
  );
});
