/** Frames of a round: what is encoded is decoded, however the stream is cut, and nothing else is. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { harms } from "../../test/support/harm.ts";
import { CHUNK_BYTES, FRAME_BYTES_MAX, FrameDecoder, encodeFrame, type Frame, type Piece } from "./codec.ts";
import { ROOT, bytePath, type BytePath, type FileKind, type Inode } from "./inode.ts";

/** Objects like those of the code: `deepEqual` looks at the prototype. */
const record = <T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }): fc.Arbitrary<T> => fc.record(model, { noNullPrototype: true });
const byte = fc.integer({ min: 1, max: 255 }).map((code) => String.fromCharCode(code));
const byteString = (maxLength: number): fc.Arbitrary<string> => fc.string({ unit: byte, minLength: 1, maxLength });
const path = fc
  .array(byteString(20), { minLength: 1, maxLength: 4 })
  .map((names) => bytePath(names.join("/")))
  .filter((found): found is BytePath => found !== undefined && found !== "");
const u32 = fc.nat({ max: 0xffffffff });
const kind: fc.Arbitrary<FileKind> = fc.oneof(
  record({ type: fc.constant("directory" as const), opaque: fc.boolean() }),
  record({ type: fc.constant("file" as const), size: fc.maxSafeNat() }),
  record({ type: fc.constant("symlink" as const), target: byteString(300) }),
  fc.constantFrom<FileKind>({ type: "fifo" }, { type: "socket" }),
  record({ type: fc.constantFrom("character-device" as const, "block-device" as const), major: u32, minor: u32 }),
);
const bytes = (maxLength: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ maxLength }).map((each) => Buffer.from(each));
const time = fc.bigInt({ min: -(2n ** 63n) * 1_000_000_000n, max: 2n ** 63n * 1_000_000_000n - 1n });
const inode: fc.Arbitrary<Inode> = record({
  kind,
  permissions: fc.nat({ max: 0o7777 }),
  uid: u32,
  gid: u32,
  mtimeNs: time,
  xattrs: fc.array(record({ name: byteString(255), value: bytes(300) }), { maxLength: 3 }),
});
const pieces: fc.Arbitrary<Piece[]> = fc.uniqueArray(fc.nat({ max: 2000 }), { maxLength: 6 }).map((borders) => {
  const sorted = borders.toSorted((a, b) => a - b);
  return Array.from({ length: Math.floor(sorted.length / 2) }, (_, i) => {
    const offset = sorted[2 * i] ?? 0;
    return { offset, length: (sorted[2 * i + 1] ?? 0) - offset };
  });
});
const frame: fc.Arbitrary<Frame> = fc.oneof(
  record({ frame: fc.constant("remove" as const), path }),
  record({ frame: fc.constant("put" as const), path: fc.oneof(path, fc.constant(ROOT)), inode, fresh: fc.boolean(), atimeNs: time }),
  record({ frame: fc.constant("link" as const), path, to: path }),
  fc.tuple(fc.maxSafeNat(), pieces, fc.nat({ max: 255 })).map(([index, parts, fill]): Frame => {
    const length = parts.reduce((sum, part) => sum + part.length, 0);
    return { frame: "chunk", index, pieces: parts, data: Buffer.alloc(length, fill) };
  }),
  record({ frame: fc.constant("digests" as const), prefixes: bytes(100) }),
);
const end: fc.Arbitrary<Frame> = fc.constantFrom<Frame>({ frame: "end", digest: undefined }, { frame: "end", digest: "\xff".repeat(32) });

function encode(frames: readonly Frame[]): Buffer {
  return Buffer.concat(frames.flatMap(encodeFrame));
}

/** Decodes a stream cut into parts of the given sizes, over and over. */
function decode(stream: Uint8Array, sizes: readonly number[]): Frame[] {
  const decoder = new FrameDecoder();
  const found: Frame[] = [];
  for (let at = 0, i = 0; at < stream.length; i++) {
    const size = sizes[i % sizes.length] ?? 1;
    // What a frame refers to need not live longer than its turn.
    for (const each of decoder.frames(Buffer.from(stream.subarray(at, at + size)))) found.push(structuredCopy(each));
    at += size;
  }
  decoder.end();
  return found;
}

function structuredCopy(each: Frame): Frame {
  if (each.frame === "chunk") return { ...each, data: Buffer.from(each.data) };
  if (each.frame === "digests") return { ...each, prefixes: Buffer.from(each.prefixes) };
  if (each.frame !== "put") return each;
  const xattrs = each.inode.xattrs.map(({ name, value }) => ({ name, value: Buffer.from(value) }));
  return { ...each, inode: { ...each.inode, xattrs } };
}

test("frames come out as they went in, however the stream is cut", () => {
  const sizes = fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 5 });
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 8 }), end, sizes, (frames, last, cuts) => {
      const sent = [...frames, last];
      assert.deepEqual(decode(encode(sent), cuts), sent);
      assert.deepEqual(decode(encode(sent), [1]), sent);
      assert.deepEqual(decode(encode(sent), [1_000_000]), sent);
    }),
  );
});

test("a stream that ends early is refused, wherever it ends", () => {
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 3 }), fc.nat(), (frames, where) => {
      const stream = encode([...frames, { frame: "end", digest: undefined }]);
      assert.throws(() => decode(stream.subarray(0, where % stream.length), [7]), { code: "PROTOCOL" });
    }),
  );
});

test("bytes at random are refused or ignored, never taken for something else than frames", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (noise) => {
      const decoder = new FrameDecoder();
      try {
        for (const each of decoder.frames(noise)) if ("path" in each) assert.equal(bytePath(each.path), each.path);
      } catch (error) {
        assert.equal((error as { code?: string }).code, "PROTOCOL");
      }
    }),
  );
});

test("frames that were harmed are refused, or are other frames with paths within the tree", () => {
  fc.assert(
    fc.property(fc.array(frame, { minLength: 1, maxLength: 4 }), harms, (frames, harm) => {
      const stream = harm(encode([...frames, { frame: "end", digest: undefined }]));
      try {
        for (const each of decode(stream, [1000])) {
          if ("path" in each) assert.equal(bytePath(each.path), each.path);
          if ("to" in each) assert.equal(bytePath(each.to), each.to);
        }
      } catch (error) {
        assert.equal((error as { code?: string }).code, "PROTOCOL", String(error));
      }
    }),
    { numRuns: 1000 },
  );
});

/** A frame of a kind and a body, as a source that lies would send it. */
function raw(kindOfFrame: number, ...body: readonly (string | number[])[]): Buffer {
  const parts = body.map((part) => (typeof part === "string" ? Buffer.from(part, "latin1") : Buffer.from(part)));
  const head = Buffer.alloc(5);
  head.writeUInt32BE(1 + parts.reduce((sum, part) => sum + part.length, 0));
  head.writeUInt8(kindOfFrame, 4);
  return Buffer.concat([head, ...parts]);
}

const text = (value: string): string => String.fromCharCode(value.length >> 8, value.length & 0xff) + value;
const ZEROS_8 = [0, 0, 0, 0, 0, 0, 0, 0];
const inodeHead = [0x81, 0xa4, 0, 0, 0, 0, 0, 0, 0, 0, ...ZEROS_8]; // a file, 0644, uid and gid 0, seconds

const HOSTILE: Readonly<Record<string, Buffer>> = {
  "an unknown kind": raw(9),
  "an empty frame": Buffer.alloc(5),
  "a frame too long": Buffer.from([0x7f, 0xff, 0xff, 0xff, 1]),
  "a path out of the tree": raw(1, text("../etc/passwd")),
  "an absolute path": raw(1, text("/etc/passwd")),
  "a path through the parent": raw(1, text("a/../../b")),
  "a path with a NUL": raw(1, text("a\0b")),
  "the removal of the root": raw(1, text("")),
  "a link to the root": raw(3, text("a"), text("")),
  "a path longer than its frame": raw(1, [0xff, 0xff], "abc"),
  "bytes behind a path": raw(1, text("a"), "b"),
  "an inode of no type": raw(2, [0], text("a"), [0x11, 0], inodeHead.slice(2), [0, 0, 0, 0]),
  "a time of too many nanoseconds": raw(2, [0], text("a"), inodeHead, [0x3b, 0x9a, 0xca, 0x00], ZEROS_8),
  "a size beyond every number": raw(2, [0], text("a"), inodeHead, [0, 0, 0, 0], [0xff, 0, 0, 0, 0, 0, 0, 0]),
  "an attribute without a name": raw(2, [0], text("a"), inodeHead, [0, 0, 0, 0], ZEROS_8, text(""), [0, 0, 0, 0]),
  "a piece behind its chunk": raw(4, ZEROS_8, [0, 0, 0, 1], [0, 4, 0, 0], [0, 0, 0, 1], "x"),
  "pieces that overlap": raw(4, ZEROS_8, [0, 0, 0, 2], [0, 0, 0, 0, 0, 0, 0, 2], [0, 0, 0, 1, 0, 0, 0, 2], "wxyz"),
  "less data than its pieces": raw(4, ZEROS_8, [0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 2], "x"),
  "more pieces than its frame": raw(4, ZEROS_8, [0xff, 0xff, 0xff, 0xff]),
  "half a digest": raw(6, "abc"),
  "bytes after the end": Buffer.concat([raw(6), raw(1, text("a"))]),
};

for (const [what, stream] of Object.entries(HOSTILE)) {
  test(`${what} is refused`, () => {
    for (const size of [1, 1000]) assert.throws(() => decode(stream, [size]), { code: "PROTOCOL", message: /update both agents/ });
  });
}

test("attributes that no frame can hold are the source's error", () => {
  const xattrs = Array.from({ length: 20 }, (_, i) => ({ name: `user.${i}`, value: new Uint8Array(60_000) }));
  const put: Frame = {
    frame: "put",
    path: ROOT,
    inode: { kind: { type: "fifo" }, permissions: 0, uid: 0, gid: 0, mtimeNs: 0n, xattrs },
    fresh: true,
    atimeNs: 0n,
  };
  assert.throws(() => encodeFrame(put), { code: "ROOTFS", message: new RegExp(`exceed ${FRAME_BYTES_MAX}`) });
});

test("the largest chunk fits into a frame", () => {
  const sent: Frame[] = [
    { frame: "chunk", index: 0, pieces: [{ offset: 0, length: CHUNK_BYTES }], data: Buffer.alloc(CHUNK_BYTES, 1) },
    { frame: "end", digest: undefined },
  ];
  assert.deepEqual(decode(encode(sent), [16_384]), sent);
});
