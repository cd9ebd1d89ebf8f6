/** A store takes rounds however they are cut, and refuses what is none. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { encodeMessage, PAGE_BYTES, type PageMessage } from "./page-protocol.ts";
import { PageStore } from "./page-store.ts";

const PROCESS = 7;

/** Pages that hold a number each. */
function pages(page: number, ...values: readonly number[]): Buffer {
  const run = { process: PROCESS, page, pageCount: values.length };
  return Buffer.concat([encodeMessage({ kind: "pages", run }), ...values.map((value) => Buffer.alloc(PAGE_BYTES, value))]);
}

function message(kind: "get" | "hole", page: number, pageCount: number): Buffer {
  return encodeMessage({ kind, run: { process: PROCESS, page, pageCount } });
}

async function* cut(bytes: Buffer, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

/** What the store has of the first pages; undefined where it has none. */
function content(store: PageStore, pageCount: number): (number | undefined)[] {
  const bytes = Buffer.alloc(PAGE_BYTES);
  return Array.from({ length: pageCount }, (_, page) => {
    if (!store.has(PROCESS, page)) return undefined;
    store.read({ process: PROCESS, page, pageCount: 1 }, bytes);
    assert.ok(bytes.equals(Buffer.alloc(PAGE_BYTES, bytes[0])));
    return bytes[0];
  });
}

test("a page is as it came last, and a hole takes pages away", async () => {
  const round = Buffer.concat([pages(1, 10, 11, 12), pages(2, 20), message("hole", 3, 5)]);
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: round.length }), async (size) => {
      using store = new PageStore(10);
      await store.receive(cut(round, Math.max(size, 100)));
      assert.deepEqual(content(store, 5), [undefined, 10, 20, undefined, undefined]);
      assert.equal(store.pageCount, 2);
    }),
    { numRuns: 20 },
  );
});

test("pages beyond what there is room for are left out; an older copy of them is no longer there", async () => {
  using store = new PageStore(3);
  await store.receive(cut(Buffer.concat([pages(0, 1, 2), pages(2, 3, 4), pages(1, 5, 6, 7)]), 5000));
  assert.deepEqual(content(store, 5), [1, undefined, undefined, undefined, undefined]);
});

test("what was taken is not here any more", async () => {
  using store = new PageStore(10);
  await store.receive(cut(pages(0, 1, 2, 3), 5000));
  store.free({ process: PROCESS, page: 1, pageCount: 1 });
  assert.deepEqual(content(store, 3), [1, undefined, 3]);
  assert.deepEqual(
    [...store.within(PROCESS, { page: 0, pageCount: 9 })],
    [
      { page: 0, pageCount: 1 },
      { page: 2, pageCount: 1 },
    ],
  );
});

test("what is no round is refused, and what came before stays", async () => {
  const close: PageMessage = { kind: "close" };
  const wrong = {
    "a question": message("get", 0, 1),
    "a farewell": encodeMessage(close),
    "an end within a page": pages(5, 1).subarray(0, 1000),
    "pages that no process has": message("hole", 2 ** 36, 1),
    "something else": Buffer.alloc(32, 0x55),
  };
  for (const [what, bytes] of Object.entries(wrong)) {
    using store = new PageStore(10);
    await assert.rejects(store.receive(cut(Buffer.concat([pages(0, 1), bytes]), 5000)), { code: "PROTOCOL" }, what);
    assert.deepEqual(content(store, 6), [1, undefined, undefined, undefined, undefined, undefined], what);
  }
});
