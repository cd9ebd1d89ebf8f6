/** A store takes rounds however they are cut, and refuses what is none. */
import assert from "node:assert/strict";
import { existsSync, fstatSync, readdirSync, readlinkSync, readSync, statSync } from "node:fs";
import { test } from "node:test";
import * as fc from "fast-check";
import { harms } from "../../test/support/harm.ts";
import { encodeMessage, PAGE_BYTES, type PageMessage } from "./page-protocol.ts";
import { PageStore } from "./page-store.ts";

const PROCESS = 7;

/** Brings pages that hold a number each; zeros as such. */
function take(store: PageStore, first: number, ...values: readonly number[]): void {
  if (values.every((value) => value === 0)) return store.take({ process: PROCESS, page: first, pageCount: values.length }, undefined);
  const bytes = Buffer.concat(values.map((value) => Buffer.alloc(PAGE_BYTES, value)));
  store.take({ process: PROCESS, page: first, pageCount: values.length }, bytes);
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
  for (const size of [1, 31, 64, 1000]) {
    using store = new PageStore(10);
    take(store, 1, 10, 11, 12);
    take(store, 2, 20);
    take(store, 4, 30, 31);
    take(store, 4, 0);
    await store.takeHoles(cut(Buffer.concat([message("hole", 3, 1), message("hole", 5, 9)]), size));
    assert.deepEqual(content(store, 6), [undefined, 10, 20, undefined, 0, undefined]);
    assert.equal(store.pageCount, 3);
  }
});

test("pages beyond what there is room for are left out; an older copy of them is no longer there", () => {
  using store = new PageStore(3);
  take(store, 0, 1, 2);
  take(store, 2, 3, 4);
  take(store, 1, 5, 6, 7);
  assert.deepEqual(content(store, 5), [1, undefined, undefined, undefined, undefined]);
});

test("its file has what is here, what comes later, zeros for all else, and the size that it is to have", async () => {
  using store = new PageStore(10);
  take(store, 0, 1, 2, 3, 4, 5);
  await store.takeHoles(cut(message("hole", 1, 2), 1000));
  const file = store.fileOf(PROCESS, 4);
  const values = (): number[] => {
    const bytes = Buffer.alloc(6 * PAGE_BYTES);
    const byteCount = readSync(file, bytes, 0, bytes.length, 0);
    return Array.from({ length: byteCount / PAGE_BYTES }, (_, page) => bytes[page * PAGE_BYTES] ?? NaN);
  };
  assert.deepEqual(values(), [1, 0, 0, 4]);
  take(store, 2, 6, 7, 8);
  take(store, 0, 0);
  assert.equal(store.fileOf(PROCESS, 4), file);
  assert.deepEqual(values(), [0, 0, 6, 7]);
  assert.equal(fstatSync(store.fileOf(PROCESS + 1, 2)).size, 2 * PAGE_BYTES);
});

test("all of a range is here only if none of it is missing", () => {
  using store = new PageStore(10);
  take(store, 1, 1, 2, 3);
  const isHere = (page: number, pageCount: number): boolean => store.hasAll(PROCESS, { page, pageCount });
  assert.deepEqual([isHere(1, 3), isHere(2, 1), isHere(0, 2), isHere(3, 2), isHere(7, 1)], [true, true, false, false, false]);
  assert.ok(!store.hasAll(PROCESS + 1, { page: 1, pageCount: 1 }));
});

test("the pages of other stores count, too", () => {
  using other = new PageStore(10);
  take(other, 0, 1, 2);
  using store = new PageStore(4, [other]);
  take(store, 0, 1, 2);
  assert.ok(!store.hasRefused);
  take(store, 2, 3);
  assert.ok(store.hasRefused);
});

test("what was taken is not here any more", () => {
  using store = new PageStore(10);
  take(store, 0, 1, 2, 3);
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

test("what says no hole is refused, and what came before stays", async () => {
  const close: PageMessage = { kind: "close" };
  const wrong = {
    "a question": message("get", 0, 1),
    "a farewell": encodeMessage(close),
    "pages that no process has": message("hole", 2 ** 36, 1),
    "something else": Buffer.alloc(32, 0x55),
  };
  for (const [what, bytes] of Object.entries(wrong)) {
    using store = new PageStore(10);
    take(store, 0, 1);
    await assert.rejects(store.takeHoles(cut(bytes, 5000)), { code: "PROTOCOL" }, what);
    assert.throws(() => take(store, 2 ** 36, 1), { code: "PROTOCOL" });
    assert.deepEqual(content(store, 2), [1, undefined], what);
  }
});

test("holes that were harmed are refused, or take pages away: none comes by them, and none changes", async () => {
  const hole = fc.tuple(fc.nat(9), fc.integer({ min: 1, max: 5 })).map(([page, pageCount]) => message("hole", page, pageCount));
  await fc.assert(
    fc.asyncProperty(fc.array(hole, { minLength: 1, maxLength: 5 }), harms, async (holes, harm) => {
      using store = new PageStore(10);
      take(store, 0, 1, 2, 3, 4, 5);
      try {
        await store.takeHoles(cut(harm(Buffer.concat(holes)), 100));
      } catch (error) {
        assert.equal((error as { code?: string }).code, "PROTOCOL", String(error));
      }
      for (const [page, value] of content(store, 20).entries()) if (value !== undefined) assert.equal(value, page + 1);
    }),
  );
});

/** How much memory the files of a store take, by their name. */
function memoryOf(name: string): number {
  const files = readdirSync("/proc/self/fd").map((fd) => `/proc/self/fd/${fd}`);
  const isOurs = (file: string): boolean => existsSync(file) && readlinkSync(file).startsWith(`/memfd:${name} `);
  return files.filter(isOurs).reduce((sum, file) => sum + statSync(file).blocks * 512, 0);
}

test("it takes no memory for pages that are not here any more", async () => {
  using store = new PageStore(3, undefined, "holes");
  take(store, 0, 1, 2, 3);
  assert.equal(memoryOf("holes"), 3 * PAGE_BYTES);
  await store.takeHoles(cut(message("hole", 0, 1), 32));
  take(store, 2, 4, 5, 6); // more than there is room for
  assert.deepEqual([store.pageCount, memoryOf("holes")], [1, PAGE_BYTES]);
});

test("holes in what is not here take neither memory nor time", async () => {
  using store = new PageStore(3, undefined, "no holes");
  take(store, 0, 1);
  const holes = Array.from({ length: 1000 }, (_, nth) =>
    encodeMessage({ kind: "hole", run: { process: nth % 2 === 0 ? PROCESS : 100 + nth, page: 1, pageCount: 2 ** 35 - 1 } }),
  );
  await store.takeHoles(cut(Buffer.concat(holes), 5000));
  assert.deepEqual([memoryOf("no holes"), content(store, 2)], [PAGE_BYTES, [1, undefined]]);
});

test("a page that comes after the last round is refused, and so is a hole: what was told in the freeze stays as it is", async () => {
  using store = new PageStore(10);
  take(store, 0, 1, 2);
  store.settle(new Map([[PROCESS, [{ page: 1, pageCount: 1 }]]]));
  assert.throws(() => take(store, 1, 2), { code: "PROTOCOL" });
  await assert.rejects(store.takeHoles(cut(message("hole", 0, 1), 32)), { code: "PROTOCOL" });
  assert.deepEqual(content(store, 2), [1, undefined]);
});

test("more processes than an agent has descriptors for are left out", () => {
  using store = new PageStore(Infinity);
  for (let process = 1; process <= 4097; process++) store.take({ process, page: 0, pageCount: 1 }, undefined);
  assert.deepEqual([store.pageCount, store.hasRefused, store.has(4096, 0), store.has(4097, 0)], [4096, true, true, false]);
});
