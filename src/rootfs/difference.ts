/**
 * What must be done to a tree that equals one snapshot so that it equals another. Pure.
 */
import type { Frame } from "./codec.ts";
import { splitPath, type BytePath } from "./inode.ts";
import type { Entry, Snapshot } from "./scan.ts";

/** A step towards the other snapshot. A `put` carries the whole entry; a file's content, where it differs, is up to who sends it. */
export type Step =
  | Extract<Frame, { readonly frame: "remove" | "link" }>
  | (Extract<Frame, { readonly frame: "put" }> & { readonly inode: Entry });

/**
 * The steps from `previous` to `current`, first what goes, then what comes, a directory before what is in it, a file before its further
 * names. Without `previous` they begin at an empty tree, or for an overlay at its lower layers alone.
 */
export function* difference(previous: Snapshot | undefined, current: Snapshot): Generator<Step, void> {
  if (previous !== undefined) yield* removals(previous, current);
  for (const path of current.whiteouts) {
    if (previous?.whiteouts.has(path) !== true) yield { frame: "remove", path };
  }
  yield* additions(previous, current);
}

function* removals(previous: Snapshot, current: Snapshot): Generator<Step, void> {
  for (const path of previous.entries.keys()) {
    const isGone = !current.entries.has(path) && !current.whiteouts.has(path);
    if (isGone && isDirectory(current.entries.get(splitPath(path).directory))) yield { frame: "remove", path };
  }
}

function* additions(previous: Snapshot | undefined, current: Snapshot): Generator<Step, void> {
  /** Directories that the target empties, so that everything in them must be put again. */
  const emptied = new Set<BytePath>();
  /** Files that get a new inode, so that their further names must be made again. */
  const renewed = new Set<BytePath>();
  for (const [path, entry] of current.entries) {
    const isLost = emptied.size > 0 && path !== "" && emptied.has(splitPath(path).directory);
    const before = isLost ? undefined : previous?.entries.get(path);
    if (entry.kind.type === "directory") {
      const fresh = entry.kind.opaque && !(before?.kind.type === "directory" && before.kind.opaque);
      if (fresh || isLost) emptied.add(path);
      if (fresh || before !== entry) yield { frame: "put", path, inode: entry, fresh, atimeNs: entry.atimeNs };
    } else if (entry.linkOf !== undefined) {
      if (before !== entry || renewed.has(entry.linkOf)) yield { frame: "link", path, to: entry.linkOf };
    } else if (before !== entry) {
      const fresh = !isSameFile(before, entry);
      if (fresh) renewed.add(path);
      yield { frame: "put", path, inode: entry, fresh, atimeNs: entry.atimeNs };
    }
  }
}

/** True if both are the same regular file, whose content can be changed where it lies. */
function isSameFile(before: Entry | undefined, entry: Entry): boolean {
  const areFiles = before?.kind.type === "file" && entry.kind.type === "file" && before.linkOf === undefined;
  return areFiles && before.inodeNumber === entry.inodeNumber && before.filesystem === entry.filesystem;
}

function isDirectory(entry: Entry | undefined): boolean {
  return entry?.kind.type === "directory";
}
