/**
 * Images on their way, and what is left open when they break off.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import { test } from "node:test";
import * as fc from "fast-check";
import { harms } from "../../test/support/harm.ts";
import { temporaryDirectory } from "../../test/support/hosts.ts";
import { DmigrateError } from "../core/errors.ts";
import { receiveImages, sendImages } from "./image-stream.ts";

/** The bytes of such files, as they are sent. */
async function sent(folder: string, files: Readonly<Record<string, Buffer>>): Promise<Buffer> {
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);
  return await buffer(sendImages(folder, Readable.from(Object.keys(files))));
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
