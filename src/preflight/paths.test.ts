/**
 * What lies at a path, how much, and where something lies.
 */
import assert from "node:assert/strict";
import { linkSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { DmigrateError } from "../core/errors.ts";
import { pathKind, pathsOf, plainPaths, treeBytes } from "./paths.ts";

const folder = mkdtempSync(path.join(tmpdir(), "dmigrate-paths-"));
after(() => rmSync(folder, { recursive: true }));

test("a path is what its link leads to", async () => {
  writeFileSync(path.join(folder, "file"), "");
  symlinkSync("file", path.join(folder, "link"));
  symlinkSync("nowhere", path.join(folder, "dangling"));
  const kinds = await Promise.all(["", "file", "link", "dangling", "/dev/null"].map((name) => pathKind(path.resolve(folder, name))));
  assert.deepEqual(kinds, ["directory", "file", "file", "missing", "device"]);
});

test("a tree is measured, a missing one is an error", async () => {
  const tree = path.join(folder, "tree");
  mkdirSync(tree);
  writeFileSync(path.join(tree, "a"), Buffer.alloc(1_000_000, 1));
  linkSync(path.join(tree, "a"), path.join(tree, "b"));
  const bytes = await treeBytes(tree);
  assert.ok(bytes >= 1_000_000 && bytes < 1_100_000, String(bytes));
  await assert.rejects(treeBytes(path.join(folder, "missing")), (error) => error instanceof DmigrateError && error.code === "ROOTFS");
});

test("files are found by their inodes, under each name; names that would be read as configuration are not", async () => {
  const root = path.join(folder, "root");
  mkdirSync(path.join(root, "srv"), { recursive: true });
  const names = ["srv", "srv/é-ok", "srv/two words", 'srv/quote"', "srv/line\naction-script evil", "srv/hash#"];
  for (const name of names.slice(1)) writeFileSync(path.join(root, name), "");
  linkSync(path.join(root, "srv/hash#"), path.join(root, "srv/other name"));
  const inodes = names.map((name) => statSync(path.join(root, name)).ino);
  const found = await pathsOf(root, [...inodes, 1]);
  assert.equal(found.length, names.length + 1);
  const plain = plainPaths(found);
  assert.deepEqual([...plain.values()].toSorted(), ["/srv", "/srv/é-ok"]);
  assert.equal(plain.get(inodes[0] ?? 0), "/srv");
  assert.deepEqual(await pathsOf(root, []), []);
});
