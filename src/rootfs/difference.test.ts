/** Steps from one snapshot to another. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { difference } from "./difference.ts";
import { ROOT, type BytePath, type FileKind } from "./inode.ts";
import type { Entry, Snapshot } from "./scan.ts";

interface Spec {
  readonly inode: number;
  readonly kind: FileKind["type"] | "opaque";
  readonly linkOf?: string;
}

const path = (text: string): BytePath => text as BytePath; // the tests' own are well-formed

function entry({ inode, kind, linkOf }: Spec): Entry {
  return {
    kind:
      kind === "opaque"
        ? { type: "directory", opaque: true }
        : kind === "directory"
          ? { type: kind, opaque: false }
          : { type: "file", size: 1 },
    permissions: 0,
    uid: 0,
    gid: 0,
    mtimeNs: 0n,
    atimeNs: 0n,
    xattrs: [],
    inodeNumber: BigInt(inode),
    filesystem: 1,
    ctimeNs: 0n,
    allocated: 0,
    linkOf: linkOf === undefined ? undefined : path(linkOf),
    settled: true,
  };
}

/** A snapshot; entries of `like` that have the same specification are the same objects, as after a scan. */
function snapshot(specs: Readonly<Record<string, Spec | Entry>>, whiteouts: readonly string[] = []): Snapshot {
  const entries = new Map<BytePath, Entry>();
  for (const [name, spec] of Object.entries(specs)) entries.set(path(name), "settled" in spec ? spec : entry(spec));
  return { entries, whiteouts: new Set(whiteouts.map(path)) };
}

function steps(previous: Snapshot | undefined, current: Snapshot): string[] {
  return [...difference(previous, current)].map((step) => {
    if (step.frame === "link") return `link ${step.path} to ${step.to}`;
    return step.frame === "put" && step.fresh ? `put ${step.path} fresh` : `${step.frame} ${step.path}`;
  });
}

const root = entry({ inode: 1, kind: "directory" });
const directory = entry({ inode: 2, kind: "directory" });
const file = entry({ inode: 3, kind: "file" });

test("from nothing: whiteouts first, then everything in order; only what is opaque replaces what is there", () => {
  const current = snapshot({ [ROOT]: root, d: directory, "d/f": file, o: { inode: 4, kind: "opaque" } }, ["gone"]);
  assert.deepEqual(steps(undefined, current), ["remove gone", "put ", "put d", "put d/f fresh", "put o fresh"]);
});

test("what has not changed is not mentioned", () => {
  const current = snapshot({ [ROOT]: root, d: directory, "d/f": file }, ["gone"]);
  assert.deepEqual(steps(snapshot({ [ROOT]: root, d: directory, "d/f": file }, ["gone"]), current), []);
});

test("a file that is still the same inode keeps it, another one does not", () => {
  const previous = snapshot({ [ROOT]: root, a: { inode: 3, kind: "file" }, b: { inode: 4, kind: "file" } });
  assert.deepEqual(steps(previous, snapshot({ [ROOT]: root, a: { inode: 3, kind: "file" }, b: { inode: 5, kind: "file" } })), [
    "put a",
    "put b fresh",
  ]);
});

test("what is gone is removed once, by its topmost name", () => {
  const previous = snapshot({ [ROOT]: root, d: directory, "d/e": directory, "d/e/f": file });
  assert.deepEqual(steps(previous, snapshot({ [ROOT]: root })), ["remove d"]);
  assert.deepEqual(steps(previous, snapshot({ [ROOT]: root }, ["d"])), ["remove d"]);
  assert.deepEqual(steps(previous, snapshot({ [ROOT]: root, d: file })), ["put d fresh"]);
});

test("a directory that becomes opaque loses everything, so everything in it comes again", () => {
  const previous = snapshot({ [ROOT]: root, d: directory, "d/e": directory, "d/e/f": file, g: file });
  const current = snapshot({ [ROOT]: root, d: { inode: 2, kind: "opaque" }, "d/e": directory, "d/e/f": file, g: file });
  assert.deepEqual(steps(previous, current), ["put d fresh", "put d/e", "put d/e/f fresh"]);
  assert.deepEqual(steps(current, snapshot(Object.fromEntries(current.entries))), []);
});

test("the names of a file that gets a new inode are made again", () => {
  const second = entry({ inode: 3, kind: "file", linkOf: "a" });
  const previous = snapshot({ [ROOT]: root, a: file, b: second });
  assert.deepEqual(steps(previous, snapshot({ [ROOT]: root, a: { inode: 9, kind: "file" }, b: second })), ["put a fresh", "link b to a"]);
});

test("a further name that becomes a file's first one gets a file of its own", () => {
  const previous = snapshot({ [ROOT]: root, a: file, b: { inode: 3, kind: "file", linkOf: "a" } });
  assert.deepEqual(steps(previous, snapshot({ [ROOT]: root, b: { inode: 3, kind: "file" } })), ["remove a", "put b fresh"]);
});
