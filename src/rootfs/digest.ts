/**
 * The digest of a tree: over every path, type, owner, permission, time, attribute, device, link and content, so that two hosts can tell
 * whether they have the same.
 */
import { closeSync } from "node:fs";
import { DmigrateError } from "../core/errors.ts";
import { encodeFrame } from "./codec.ts";
import { readContent, sha256, type Content } from "./content.ts";
import { toContainer, type IdMap } from "./id-map.ts";
import { showPath, type BytePath } from "./inode.ts";
import { openRoot, scan, type Entry, type Snapshot, type Tree } from "./scan.ts";
import { Slices } from "./slices.ts";

/** Bytes of each entry's digest that cross, to find the place of a difference. */
const PREFIX_BYTES = 4;

/** A tree's digest and those of its entries, in the order of the walk. */
export interface TreeDigest {
  /** 32 bytes as a byte string. */
  readonly digest: string;
  readonly prefixes: Uint8Array;
  readonly paths: readonly BytePath[];
}

/** Digests snapshots of one tree, one after the other, at the cost of what changed between them. */
export class Digester {
  readonly #tree: Tree;
  readonly #ids: IdMap | undefined;
  /** An entry's content belongs to it: whoever changes the content makes a new entry. */
  readonly #known = new WeakMap<Entry, string>();

  constructor(tree: Tree, ids: IdMap | undefined) {
    this.#tree = tree;
    this.#ids = ids;
  }

  /** The digest of `snapshot`. Files that `contents` lacks are read, and added. Throws ROOTFS if one has vanished. */
  async digest(snapshot: Snapshot, contents: Map<BytePath, Content>, slices = new Slices()): Promise<TreeDigest> {
    const paths: BytePath[] = [];
    const digests: string[] = [];
    const root = openRoot(this.#tree.root);
    try {
      for (const [path, entry] of snapshot.entries) {
        const missesContent = entry.kind.type === "file" && entry.linkOf === undefined && !contents.has(path);
        if (missesContent) contents.set(path, await contentOf(root, path));
        paths.push(path);
        digests.push(this.#entryDigest(path, entry, contents.get(path)));
        if (slices.over) await slices.next();
      }
    } finally {
      closeSync(root);
    }
    for (const path of snapshot.whiteouts) {
      paths.push(path);
      digests.push(sha256(Buffer.concat(encodeFrame({ frame: "remove", path }))));
    }
    const prefixes = Buffer.from(digests.map((each) => each.slice(0, PREFIX_BYTES)).join(""), "latin1");
    return { digest: sha256(Buffer.from(digests.join(""), "latin1")), prefixes, paths };
  }

  #entryDigest(path: BytePath, entry: Entry, content: Content | undefined): string {
    const known = this.#known.get(entry);
    if (known !== undefined) return known;
    const inode = this.#ids === undefined ? entry : toContainer(entry, this.#ids);
    const frame =
      entry.linkOf === undefined
        ? ({ frame: "put", path, inode, fresh: false, atimeNs: 0n } as const)
        : ({ frame: "link", path, to: entry.linkOf } as const);
    const digest = sha256(Buffer.concat([...encodeFrame(frame), contentBytes(content)]));
    this.#known.set(entry, digest);
    return digest;
  }
}

async function contentOf(root: number, path: BytePath): Promise<Content> {
  const content = await readContent(root, path);
  if (content === undefined)
    throw new DmigrateError("ROOTFS", `A file vanished while its digest was made: ${showPath(path)}; stop whatever else writes there`);
  return content;
}

function contentBytes(content: Content | undefined): Uint8Array {
  if (content === undefined || content.size === 0) return new Uint8Array();
  const chunks = [...content].toSorted(([a], [b]) => a - b);
  return Buffer.from(chunks.map(([index, hash]) => `${index}:${hash}`).join(""), "latin1");
}

/** The path at which two digests of the same tree first differ, as `ours` has it; undefined if all of ours are in `theirs`. */
export function firstDifference(ours: TreeDigest, theirPrefixes: Uint8Array): BytePath | undefined {
  return ours.paths.find((_, i) => {
    const at = i * PREFIX_BYTES;
    return Buffer.compare(ours.prefixes.subarray(at, at + PREFIX_BYTES), theirPrefixes.subarray(at, at + PREFIX_BYTES)) !== 0;
  });
}

/** The digest of a tree, in hexadecimal, with every byte of it read. Throws ROOTFS, KERNEL. */
export async function treeDigest(tree: Tree, ids?: IdMap): Promise<string> {
  const { digest } = await new Digester(tree, ids).digest(await scan(tree), new Map());
  return Buffer.from(digest, "latin1").toString("hex");
}
