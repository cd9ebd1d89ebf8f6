/** What a source remembers of content that it has sent: it refers to nothing that the target has otherwise. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { KnownContent, PIECE_BYTES, type KnownRun } from "./known-content.ts";
import { PAGE_BYTES } from "./page-protocol.ts";

const PIECE_PAGES = PIECE_BYTES / PAGE_BYTES;

/** A page that holds a number, in one of its words. */
function page(value: number): Buffer {
  const bytes = Buffer.alloc(PAGE_BYTES);
  bytes.writeUInt32LE(value, 4 * (value % (PAGE_BYTES / 4)));
  return bytes;
}

/** Few different values, so that they come again and again: as pieces that come again, too. */
const values = fc.array(fc.nat(40), { minLength: 1, maxLength: PIECE_PAGES });
const whole = fc.nat(5).map((first) => Array.from({ length: PIECE_PAGES }, (_, at) => (first * 30 + at) % 200));
const pieces = fc.array(fc.oneof(values, whole), { maxLength: 12 });

/** Which value each page of the target has, by its number. */
function learnAll(known: KnownContent, all: readonly (readonly number[])[]): number[] {
  const target: number[] = [];
  for (const piece of all) {
    for (const { at, number, pageCount } of known.learn(Buffer.concat(piece.map(page)))) {
      assert.equal(number, target.length); // each page that comes has the next number
      target.push(...piece.slice(at, at + pageCount));
    }
  }
  return target;
}

function resolve(target: readonly number[], { number, pageCount }: KnownRun): (number | undefined)[] {
  return Array.from({ length: pageCount }, (_, at) => (number === undefined ? undefined : target[number + at]));
}

test("each page is sent once, and found again wherever it lies; no other is", () => {
  fc.assert(
    fc.property(pieces, pieces, (sent, asked) => {
      const known = new KnownContent();
      const target = learnAll(known, sent);
      assert.equal(new Set(target).size, target.length);
      for (const piece of [...sent, ...asked]) {
        const runs = known.runs(Buffer.concat(piece.map(page)));
        const expected = piece.map((value) => (target.includes(value) ? value : undefined));
        assert.deepEqual(
          runs.flatMap((run) => resolve(target, run)),
          expected,
        );
      }
    }),
  );
});

test("pages that differ in one bit are two, in tables that have grown", () => {
  const known = new KnownContent();
  const count = 20 * PIECE_PAGES;
  const target = learnAll(
    known,
    Array.from({ length: count / PIECE_PAGES }, (_, piece) => Array.from({ length: PIECE_PAGES }, (__, at) => piece * PIECE_PAGES + at)),
  );
  assert.equal(known.pageCount, count);
  for (let value = 0; value < count; value += 97) {
    assert.deepEqual(known.runs(page(value)), [{ number: target.indexOf(value), pageCount: 1 }]);
    const other = page(value);
    other[PAGE_BYTES - 1] = 128;
    assert.deepEqual(known.runs(other), [{ number: undefined, pageCount: 1 }]);
  }
});

test("pieces that came once cross as one run, those that had known pages as several", () => {
  const known = new KnownContent();
  const first = Array.from({ length: PIECE_PAGES }, (_, at) => at);
  const second = first.map((value) => (value === 10 ? 3 : value + 1000));
  learnAll(known, [first, second]);
  assert.deepEqual(known.runs(Buffer.concat(first.map(page))), [{ number: 0, pageCount: PIECE_PAGES }]);
  assert.deepEqual(known.runs(Buffer.concat(second.map(page))), [
    { number: PIECE_PAGES, pageCount: 10 },
    { number: 3, pageCount: 1 },
    { number: PIECE_PAGES + 10, pageCount: PIECE_PAGES - 11 },
  ]);
});
