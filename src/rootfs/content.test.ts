/** Chunks: how extents are cut, and what makes two chunks the same. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { CHUNK_BYTES } from "./codec.ts";
import { chunkHash, chunksOf, sha256 } from "./content.ts";

test("extents are cut at the borders of chunks, and nothing is lost or doubled", () => {
  const extents = fc
    .uniqueArray(fc.nat({ max: 5 * CHUNK_BYTES }), { maxLength: 20 })
    .map((borders) => borders.toSorted((a, b) => a - b))
    .map((borders) =>
      Array.from({ length: Math.floor(borders.length / 2) }, (_, i) => ({ start: borders[2 * i] ?? 0, end: borders[2 * i + 1] ?? 0 })),
    );
  fc.assert(
    fc.property(extents, (given) => {
      const chunks = [...chunksOf(given)];
      const found = chunks.flatMap(({ index, pieces }) =>
        pieces.map(({ offset, length }) => ({ start: index * CHUNK_BYTES + offset, end: index * CHUNK_BYTES + offset + length })),
      );
      for (const { index, pieces } of chunks)
        assert.ok(
          pieces.every(({ offset, length }) => offset + length <= CHUNK_BYTES),
          `chunk ${index}`,
        );
      assert.deepEqual(
        chunks.map(({ index }) => index),
        [...new Set(chunks.map(({ index }) => index))],
        "each chunk once",
      );
      assert.deepEqual(joined(found), joined(given));
    }),
  );
});

interface Range {
  readonly start: number;
  readonly end: number;
}

/** Ranges that touch made one. */
function joined(ranges: readonly Range[]): Range[] {
  const result: Range[] = [];
  for (const range of ranges) {
    const last = result.at(-1);
    if (last?.end === range.start) result[result.length - 1] = { start: last.start, end: range.end };
    else result.push(range);
  }
  return result;
}

test("a chunk's hash is of all its bytes, whether its zeros are written or holes", () => {
  const bytes = Buffer.alloc(10_000);
  bytes.fill(7, 1000, 3000);
  bytes.fill(8, 9000);
  const pieces = [
    { offset: 1000, length: 2000 },
    { offset: 9000, length: 1000 },
  ];
  const data = Buffer.concat([bytes.subarray(1000, 3000), bytes.subarray(9000)]);
  assert.equal(chunkHash(pieces, data, bytes.length), sha256(bytes));
  assert.equal(chunkHash([{ offset: 0, length: bytes.length }], bytes, bytes.length), sha256(bytes));
  assert.notEqual(chunkHash([{ offset: 0, length: bytes.length }], bytes, bytes.length + 1), sha256(bytes));
});

test("zeros have no hash", () => {
  assert.equal(chunkHash([], Buffer.alloc(0), 5000), undefined);
  assert.equal(chunkHash([{ offset: 10, length: 100 }], Buffer.alloc(100), 5000), undefined);
});
