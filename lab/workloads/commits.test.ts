/**
 * Books that agree with what was acknowledged, and books that don't.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { judgeBooks, type Books } from "./commits.ts";

const books = (entries: number, more: Partial<Books> = {}): Books => ({
  ...{ entries, different: entries, last: entries, count: entries },
  ...more,
});

test("what was acknowledged must be there, what was only begun may be", () => {
  const right = { lost: 0, doubled: 0 };
  assert.deepEqual(judgeBooks({ begun: 5, acknowledged: 5 }, books(5)), right);
  for (const entries of [5, 6]) assert.deepEqual(judgeBooks({ begun: 6, acknowledged: 5 }, books(entries)), right);
  assert.deepEqual(judgeBooks({ begun: 6, acknowledged: 5 }, books(4)), { lost: 1, doubled: 0 });
  assert.deepEqual(judgeBooks({ begun: 6, acknowledged: 5 }, books(7)), { lost: 0, doubled: 1 });
});

test("a half of a transaction is none, and one that is there twice is told", () => {
  assert.deepEqual(judgeBooks({ begun: 5, acknowledged: 5 }, books(5, { count: 3 })), { lost: 2, doubled: 0 });
  assert.deepEqual(judgeBooks({ begun: 5, acknowledged: 5 }, books(5, { count: 6 })), { lost: 0, doubled: 1 });
  assert.deepEqual(judgeBooks({ begun: 5, acknowledged: 5 }, books(7, { different: 5, last: 5 })), { lost: 0, doubled: 2 });
  assert.deepEqual(judgeBooks({ begun: 5, acknowledged: 5 }, books(5, { different: 4 })), { lost: 1, doubled: 1 });
});
