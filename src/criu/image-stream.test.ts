/**
 * Images on their way, and what is left open when they break off.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { test } from "node:test";
import * as fc from "fast-check";
import { harms } from "../../test/support/harm.ts";
import { temporaryDirectory } from "../../test/support/hosts.ts";
import { DmigrateError } from "../core/errors.ts";
import { PAGE_BYTES } from "../wire/trunk-frames.ts";
import { receiveImages, sendImages, type AheadContent, type ImageRun, type SendOptions } from "./image-stream.ts";

/** The bytes of such files, as they are sent. */
async function sent(folder: string, files: Readonly<Record<string, Buffer>>, options: SendOptions = {}): Promise<Buffer> {
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);
  const chunks: Uint8Array[] = [];
  for await (const chunk of sendImages(folder, Readable.from(Object.keys(files)), options)) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks);
}

/** Comes in pieces of a thousand bytes, all of them in the same memory. */
async function* pieces(bytes: Uint8Array): AsyncGenerator<Uint8Array, void> {
  const memory = Buffer.alloc(1000);
  for (let at = 0; at < bytes.length; at += memory.length) {
    memory.set(bytes.subarray(at, at + memory.length));
    yield memory.subarray(0, bytes.length - at);
  }
}

/** What of these this process has open: a file, or anything below a folder. */
function opened(...places: readonly string[]): string[] {
  const files = readdirSync("/proc/self/fd").map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return ""; // that of readdir itself
    }
  });
  return files.filter((file) => places.some((place) => file === place || file.startsWith(`${place}/`)));
}

const FILES = { "core-1.img": Buffer.alloc(3210, "c"), "empty.img": Buffer.alloc(0), "ghost-file-2.img": Buffer.alloc(300_000, "g") };

test("files arrive as they were, for the folder's owner alone", async (t) => {
  const [source, target] = [temporaryDirectory(t), temporaryDirectory(t)];
  const stream = await sent(source, { ...FILES, ".tmp": Buffer.from("runc's own") });
  await receiveImages(pieces(stream), target);
  assert.deepEqual(Object.fromEntries(readdirSync(target).map((name) => [name, readFileSync(join(target, name))])), FILES);
  for (const name of Object.keys(FILES)) assert.equal(statSync(join(target, name)).mode & 0o777, 0o600);
});

test("a file that is sent again counts as it was last", async (t) => {
  const [source, target] = [temporaryDirectory(t), temporaryDirectory(t)];
  const first = await sent(source, { "core-1.img": Buffer.from("longer before") });
  const second = await sent(source, { "core-1.img": Buffer.from("now") });
  await receiveImages(pieces(Buffer.concat([first, second])), target);
  assert.equal(readFileSync(join(target, "core-1.img"), "utf8"), "now");
});

test("a stream that breaks off anywhere leaves no file open", async (t) => {
  const [source, target] = [temporaryDirectory(t), temporaryDirectory(t)];
  const stream = await sent(source, FILES);
  async function* failing(): AsyncGenerator<Uint8Array, void> {
    yield* pieces(stream.subarray(0, 200_000));
    throw new Error("the link is gone");
  }
  await assert.rejects(receiveImages(failing(), target), /the link is gone/);
  for (const length of [3, 10, 100, 3300, 200_000]) {
    await assert.rejects(receiveImages(pieces(stream.subarray(0, length)), target), { code: "TRANSFER_FAILED" });
  }
  assert.deepEqual(opened(target), []);
});

test("a full disk is said to be one, and no file stays open", async (t) => {
  const [source, target] = [temporaryDirectory(t), temporaryDirectory(t)];
  const stream = await sent(source, FILES);
  symlinkSync("/dev/full", join(target, "ghost-file-2.img"));
  await assert.rejects(receiveImages(pieces(stream), target), { code: "NO_SPACE" });
  assert.deepEqual(opened(target, "/dev/full"), []);
});

/** Pages that were sent ahead: each is filled with its number. */
function pagesAhead(count: number): AheadContent {
  return {
    has: (number, pageCount) => number + pageCount <= count,
    read: (number, into) => into.forEach((_, at) => (into[at] = number + Math.floor(at / PAGE_BYTES))),
  };
}

/** What is known to be ahead. */
function runsAhead(count: number, content: Uint8Array): ImageRun[] {
  return Array.from({ length: content.length / PAGE_BYTES }, (_, at) => {
    const page = content.subarray(at * PAGE_BYTES, (at + 1) * PAGE_BYTES);
    const [first = 0] = page;
    return { pageCount: 1, number: first < count && page.every((byte) => byte === first) ? first : undefined };
  });
}

const KNOWN = 20;

test("memory that was sent ahead crosses as a reference, any other as it is", async (t) => {
  const [source, target] = [temporaryDirectory(t), temporaryDirectory(t)];
  const page = fc.oneof(
    fc.nat(40).map((value) => Buffer.alloc(PAGE_BYTES, value)),
    fc.uint8Array({ minLength: PAGE_BYTES, maxLength: PAGE_BYTES }),
  );
  const image = fc
    .tuple(fc.array(page, { maxLength: 150 }), fc.uint8Array({ maxLength: 100 }))
    .map(([pages, rest]) => Buffer.concat([...pages, rest]));
  await fc.assert(
    fc.asyncProperty(image, image, async (memory, other) => {
      const files = { "core-1.img": other, "pages-1.img": memory };
      const stream = await sent(source, files, { known: (content) => runsAhead(KNOWN, content) });
      await receiveImages(pieces(stream), target, undefined, pagesAhead(KNOWN));
      for (const [name, content] of Object.entries(files)) assert.ok(readFileSync(join(target, name)).equals(content), name);
      const known = runsAhead(KNOWN, memory.subarray(0, memory.length - (memory.length % PAGE_BYTES))).filter(
        ({ number }) => number !== undefined,
      );
      assert.ok(stream.length < memory.length + other.length + 1000 + 16 * (memory.length / PAGE_BYTES) - known.length * PAGE_BYTES);
    }),
    { numRuns: 30 },
  );
});

test("what was not sent ahead, or is more than the image lacks, is refused", async (t) => {
  const [source, target] = [temporaryDirectory(t), temporaryDirectory(t)];
  const files = { "pages-1.img": Buffer.alloc(3 * PAGE_BYTES, 5) };
  const refer = (run: ImageRun): Promise<Buffer> => sent(source, files, { known: () => [run] });
  const missing = await refer({ pageCount: 3, number: KNOWN - 2 });
  await assert.rejects(receiveImages(pieces(missing), target, undefined, pagesAhead(KNOWN)), { code: "PROTOCOL", message: /has not sent/ });
  const tooMuch = await refer({ pageCount: 4, number: 0 });
  await assert.rejects(receiveImages(pieces(tooMuch), target, undefined, pagesAhead(KNOWN)), { code: "PROTOCOL", message: /lacks/ });
  await assert.rejects(receiveImages(pieces(missing), target), { code: "PROTOCOL" });
  assert.deepEqual(opened(target), []);
});

test("a name that leads elsewhere is refused", async (t) => {
  const target = temporaryDirectory(t);
  const name = "../core-1.img";
  const header = Buffer.from([name.length, 0, 0, 0, 0, 0, 0, ...Buffer.from(name)]);
  await assert.rejects(receiveImages(pieces(header), target), { code: "PROTOCOL" });
});

test("a stream that was harmed is refused, or is one of other files in the same folder, and none stays open", async (t) => {
  const [source, folder] = [temporaryDirectory(t), temporaryDirectory(t)];
  const stream = await sent(source, { ...FILES, "ghost-file-2.img": Buffer.alloc(5000, "g") });
  await fc.assert(
    fc.asyncProperty(harms, async (harm) => {
      const target = mkdtempSync(join(folder, "images-"));
      try {
        await receiveImages(pieces(harm(stream)), target);
      } catch (error) {
        assert.ok(error instanceof DmigrateError && ["PROTOCOL", "TRANSFER_FAILED"].includes(error.code), String(error));
      }
      assert.deepEqual(opened(target), []);
      const total = readdirSync(target).reduce((sum, name) => sum + statSync(join(target, name)).size, 0);
      assert.ok(total <= stream.length + 200, "more than was sent");
    }),
    { numRuns: 200 },
  );
  assert.deepEqual(
    readdirSync(folder).filter((name) => !name.startsWith("images-")),
    [],
  );
});
