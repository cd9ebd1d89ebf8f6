/** What a peer may send that no source does: nothing outside the tree is touched, and the error says so. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { makeNodeAt } from "../kernel/files.ts";
import { CHUNK_BYTES, encodeFrame, type Frame } from "./codec.ts";
import { at, describe, overlay, temporary } from "./fixture.ts";
import { ROOT, type BytePath, type FileKind, type Inode } from "./inode.ts";
import { scan } from "./scan.ts";
import { TreeTarget } from "./tree-target.ts";
import { TreeWriter, type TreeFrame } from "./tree-writer.ts";

const path = (text: string): BytePath => text as BytePath; // the tests' own are well-formed

const inode = (kind: FileKind): Inode => ({ kind, permissions: 0o755, uid: 0, gid: 0, mtimeNs: 0n, xattrs: [] });
const file = (size: number): Inode => inode({ type: "file", size });
const put = (at_: string, what: Inode, fresh = true): TreeFrame => ({ frame: "put", path: path(at_), inode: what, fresh, atimeNs: 0n });
const chunk = (index: number, data: string | Buffer): Frame => ({
  frame: "chunk",
  index,
  pieces: [{ offset: 0, length: data.length }],
  data: Buffer.from(data),
});

/** A tree with a victim beside it, and links and a device in it that lead there. */
function ground(t: TestContext): { tree: string; outside: string } {
  const base = temporary(t);
  const [tree, outside] = [join(base, "tree"), join(base, "outside")];
  fs.mkdirSync(join(tree, "dir"), { recursive: true });
  fs.mkdirSync(outside);
  fs.writeFileSync(join(outside, "victim"), "untouched");
  fs.symlinkSync("../outside", join(tree, "relative"));
  fs.symlinkSync(outside, join(tree, "absolute"));
  fs.symlinkSync(join(outside, "victim"), join(tree, "file"));
  fs.symlinkSync("dir", join(tree, "inside"));
  at(join(tree, "null"), (fd, name) => makeNodeAt(fd, name, 0o020666, { major: 1, minor: 3 }));
  return { tree, outside };
}

async function apply(tree: string, frames: readonly Frame[]): Promise<void> {
  const stream = async function* (): AsyncGenerator<Uint8Array, void> {
    for (const each of [...frames, { frame: "end", digest: undefined } as const]) yield Buffer.concat(encodeFrame(each));
  };
  await new TreeTarget({ kind: "plain", root: tree }).apply(stream(), tree);
}

const REFUSED: Readonly<Record<string, readonly Frame[]>> = {
  "a file through a relative link": [put("relative/victim", file(3)), chunk(0, "bad")],
  "a file through an absolute link": [put("absolute/victim", file(3)), chunk(0, "bad")],
  "a directory through a link": [put("relative/new", inode({ type: "directory", opaque: false }))],
  "attributes of a file through a link": [put("absolute/victim", file(9), false)],
  "a file through a link that stays inside": [put("inside/new", file(0))],
  "a further name for a file outside": [{ frame: "link", path: path("dir/stolen"), to: path("absolute/victim") }],
  "content for the file that a link leads to": [put("file", file(3), false), chunk(0, "bad")],
  "content for a device": [put("null", file(3), false), chunk(0, "bad")],
  "content for a directory": [put("dir", file(3), false)],
  "content for a file that is not there": [put("dir/missing", file(3), false)],
  "a file in a directory that is not there": [put("missing/file", file(0))],
  "a further name for a directory": [{ frame: "link", path: path("dir2"), to: path("dir") }],
  "a further name for itself": [{ frame: "link", path: path("file"), to: path("file") }],
  "a root that is a file": [put("", file(0))],
  "a chunk of no file": [chunk(0, "bad")],
  "a chunk after its file": [put("new", file(3)), chunk(0, "abc"), { frame: "remove", path: path("x") }, chunk(0, "abc")],
  "a chunk behind the end of its file": [put("new", file(3)), chunk(1, "bad")],
  "a chunk longer than its file": [put("new", file(3)), chunk(0, "long")],
};

for (const [what, frames] of Object.entries(REFUSED)) {
  test(`${what} is refused`, async (t) => {
    const { tree, outside } = ground(t);
    const before = describe(outside);
    await assert.rejects(apply(tree, frames), { code: "PROTOCOL" });
    assert.deepEqual(describe(outside), before);
  });
}

test("removing through a link removes nothing", async (t) => {
  const { tree, outside } = ground(t);
  const before = describe(outside);
  await apply(tree, [
    { frame: "remove", path: path("relative/victim") },
    { frame: "remove", path: path("absolute/victim") },
    { frame: "remove", path: path("missing/victim") },
  ]);
  assert.deepEqual(describe(outside), before);
});

test("a link is removed, replaced and emptied away itself, not what it leads to", async (t) => {
  const { tree, outside } = ground(t);
  const before = describe(outside);
  await apply(tree, [
    { frame: "remove", path: path("relative") },
    put("file", file(4)),
    chunk(0, "mine"),
    put("absolute", inode({ type: "directory", opaque: true })),
    put("absolute/victim", file(4)),
    chunk(0, "mine"),
  ]);
  assert.deepEqual(describe(outside), before);
  assert.equal(fs.readFileSync(join(tree, "absolute/victim"), "utf8"), "mine");
  assert.equal(fs.readFileSync(join(tree, "file"), "utf8"), "mine");
  await apply(tree, [put(ROOT, inode({ type: "directory", opaque: true }))]);
  assert.deepEqual(fs.readdirSync(tree), []);
  assert.deepEqual(describe(outside), before);
});

test("a file too large for any file system is an error, not a full disk", async (t) => {
  const { tree } = ground(t);
  await assert.rejects(apply(tree, [put("huge", file(Number.MAX_SAFE_INTEGER))]), { code: "ROOTFS", message: /"\/huge".*EFBIG/ });
});

test("an overlay's file is known to be as it was left, and not if somebody else has written to it", async (t) => {
  const base = temporary(t);
  fs.mkdirSync(join(base, "lower"));
  using mounted = overlay(base, join(base, "lower"));
  for (const name of ["left", "changed"]) fs.writeFileSync(join(mounted.path, name), "123");
  const before = await scan(mounted.tree);
  fs.chmodSync(join(mounted.path, "changed"), 0o600);
  using writer = new TreeWriter(mounted.path, before, new Map(), undefined);
  for (const name of ["left", "changed"]) void writer.apply(put(name, file(3), false));
  writer.finish();
  assert.deepEqual([...writer.written], ["left"]);
});

test("a chunk replaces all that was in its place", async (t) => {
  const { tree } = ground(t);
  const size = 2 * CHUNK_BYTES + 100;
  const target = new TreeTarget({ kind: "plain", root: tree });
  const send = async (frames: readonly Frame[]): Promise<Buffer> => {
    const stream = async function* (): AsyncGenerator<Uint8Array, void> {
      for (const each of [...frames, { frame: "end", digest: undefined } as const]) yield Buffer.concat(encodeFrame(each));
    };
    await target.apply(stream(), tree);
    return fs.readFileSync(join(tree, "new"));
  };
  const ones = Buffer.alloc(CHUNK_BYTES, 1);
  const first = await send([put("new", file(size)), chunk(0, ones), chunk(1, ones), chunk(2, ones.subarray(0, 100))]);
  assert.deepEqual(first, Buffer.alloc(size, 1));
  const piece = { frame: "chunk", index: 1, pieces: [{ offset: 10, length: 2 }], data: Buffer.from("ab") } as const;
  const second = await send([put("new", file(size), false), piece, { frame: "chunk", index: 2, pieces: [], data: Buffer.alloc(0) }]);
  const expected = Buffer.alloc(size);
  expected.fill(1, 0, CHUNK_BYTES);
  expected.write("ab", CHUNK_BYTES + 10);
  assert.deepEqual(second, expected);
});
