/** Walking trees. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setXattrAt } from "../kernel/xattr.ts";
import { at, overlay, temporary } from "./fixture.ts";
import { isSettled, measure, scan } from "./scan.ts";

test("a time is settled when no later change can have it any more", () => {
  const second = 1_000_000_000n;
  const now = 1000n * second;
  assert.equal(isSettled(now, now), false);
  assert.equal(isSettled(now - 19_000_000n, now), false);
  assert.equal(isSettled(now - 21_000_000n, now), true);
  assert.equal(isSettled(now + second, now), false, "a clock that was set back");
  assert.equal(isSettled(now - second, now), false, "a file system that counts seconds");
  assert.equal(isSettled(now - 3n * second, now), true);
});

test("equal trees are walked in the same order, a directory before what is in it, first names before further ones", async (t) => {
  const base = temporary(t);
  for (const tree of ["one", "two"]) {
    const names = ["b", "a", "c/z", "c/\xff", "c/d/e", "B"];
    for (const name of tree === "one" ? names : names.toReversed()) {
      fs.mkdirSync(join(base, tree, name, ".."), { recursive: true });
      fs.writeFileSync(Buffer.from(join(base, tree, name), "latin1"), "");
    }
    fs.linkSync(join(base, tree, "b"), join(base, tree, "c/a"));
  }
  const one = await scan({ kind: "plain", root: join(base, "one") });
  const two = await scan({ kind: "plain", root: join(base, "two") });
  assert.deepEqual([...one.entries.keys()], ["", "B", "a", "b", "c", "c/a", "c/z", "c/\xff", "c/d", "c/d/e"]);
  assert.deepEqual([...two.entries.keys()], [...one.entries.keys()]);
  assert.deepEqual(
    [...one.entries].filter(([, { linkOf }]) => linkOf !== undefined).map(([path, { linkOf }]) => [path, linkOf]),
    [["c/a", "b"]],
  );
});

test("an entry that has not changed is the same object, but not one that may have changed unnoticed", async (t) => {
  const root = temporary(t);
  for (const name of ["old", "changed", "young"]) fs.writeFileSync(join(root, name), "1");
  const first = await scan({ kind: "plain", root });
  for (const [path, entry] of first.entries) first.entries.set(path, { ...entry, settled: path !== "young" });
  fs.chmodSync(join(root, "changed"), 0o600);
  const second = await scan({ kind: "plain", root }, first);
  const same = [...second.entries].filter(([path, entry]) => first.entries.get(path) === entry);
  assert.deepEqual(
    same.map(([path]) => path),
    ["", "old"],
  );
});

test("an upper directory is read as the container sees it", async (t) => {
  const base = temporary(t);
  for (const name of ["lower/file", "lower/kept/a", "lower/replaced/a"]) {
    fs.mkdirSync(join(base, name, ".."), { recursive: true });
    fs.writeFileSync(join(base, name), "");
  }
  {
    using tree = overlay(base, join(base, "lower"));
    fs.unlinkSync(join(tree.path, "file"));
    fs.unlinkSync(join(tree.path, "kept/a"));
    fs.rmSync(join(tree.path, "replaced"), { recursive: true });
    fs.mkdirSync(join(tree.path, "replaced"));
  }
  fs.writeFileSync(join(base, "upper/asAttribute"), "");
  at(join(base, "upper/asAttribute"), (fd, name) => setXattrAt(fd, name, "trusted.overlay.whiteout", Buffer.alloc(0)));
  const { entries, whiteouts } = await scan({ kind: "upper", root: join(base, "upper") });
  assert.deepEqual([...whiteouts], ["asAttribute", "file", "kept/a"]);
  assert.deepEqual(
    [...entries].map(([path, { kind, xattrs }]) => [path, kind.type === "directory" && kind.opaque, xattrs.length]),
    [
      ["", false, 0],
      ["kept", false, 0],
      ["replaced", true, 0],
    ],
  );
});

test("in a volume an overlay's marks are ordinary files", async (t) => {
  const base = temporary(t);
  fs.mkdirSync(join(base, "lower"));
  fs.writeFileSync(join(base, "lower/file"), "");
  {
    using tree = overlay(base, join(base, "lower"));
    fs.unlinkSync(join(tree.path, "file"));
  }
  const { entries, whiteouts } = await scan({ kind: "plain", root: join(base, "upper") });
  assert.deepEqual(
    [...entries.values()].map(({ kind }) => kind),
    [
      { type: "directory", opaque: true },
      { type: "character-device", major: 0, minor: 0 },
    ],
  );
  assert.equal(whiteouts.size, 0);
});

test("a tree's size has each file once and no holes", async (t) => {
  const root = temporary(t);
  fs.writeFileSync(join(root, "a"), Buffer.alloc(10_000, 1));
  fs.linkSync(join(root, "a"), join(root, "b"));
  fs.writeFileSync(join(root, "sparse"), "");
  fs.truncateSync(join(root, "sparse"), 1024 ** 4);
  const { entries, bytes, diskBytes } = await measure({ kind: "plain", root });
  assert.deepEqual([entries, bytes], [4, 10_000]);
  assert.ok(diskBytes >= 10_000 && diskBytes < 1_000_000);
});

test("a root that is not there is named", async () => {
  await assert.rejects(scan({ kind: "plain", root: "/nowhere/at/all" }), { code: "ROOTFS", message: /\/nowhere\/at\/all/ });
});
