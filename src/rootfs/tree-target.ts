/**
 * The target's side of copying a tree: applying rounds, and telling whether the result is the source's tree.
 */
import { closeSync, constants } from "node:fs";
import { DmigrateError } from "../core/errors.ts";
import { namesIn, openBeneath } from "../kernel/files.ts";
import { syncFileSystem } from "../kernel/writeback.ts";
import { FrameDecoder, type Frame } from "./codec.ts";
import { type Content } from "./content.ts";
import { Digester, firstDifference } from "./digest.ts";
import type { IdMap } from "./id-map.ts";
import { childPath, showPath, type BytePath } from "./inode.ts";
import { isUnchanged, openRoot, scan, type Snapshot, type Tree } from "./scan.ts";
import { Slices } from "./slices.ts";
import { TreeWriter } from "./tree-writer.ts";

/**
 * A tree that becomes what a source's is. Nobody else may write to it between the first round and the last; what was in a plain tree
 * before the first is removed.
 */
export class TreeTarget {
  readonly #tree: Tree;
  readonly #ids: IdMap | undefined;
  readonly #digester: Digester;
  readonly #contents = new Map<BytePath, Content>();
  /** Directories through which the source sees nothing of a lower layer. */
  readonly #opaque = new Set<BytePath>();
  #snapshot: Snapshot | undefined;

  /**
   * @param tree where the result lies on the disk; an upper directory must be empty (`clearTree`) before it is first mounted
   * @param ids how the container's ids lie on this host's disk; without it they are the same
   */
  constructor(tree: Tree, ids?: IdMap) {
    this.#tree = tree;
    this.#ids = ids;
    this.#digester = new Digester(tree, ids);
  }

  /**
   * Applies a round. After a frozen one the tree is compared with the source's, in every name, attribute and, by what was received,
   * content. Applying a round again changes nothing.
   *
   * Throws NO_SPACE, ROOTFS, PROTOCOL at a stream that no source sends or that ends early, VERIFY_FAILED with the first path that differs.
   *
   * @param mountedAt where to write: a plain tree's root; for an upper directory, where its overlay is mounted at the moment
   */
  async apply(stream: AsyncIterable<Uint8Array>, mountedAt: string): Promise<void> {
    using writer = new TreeWriter(mountedAt, this.#snapshot, this.#contents, this.#ids);
    const end = await this.#receive(stream, writer);
    writer.finish();
    const before = this.#snapshot;
    this.#snapshot = await scan(this.#tree, before);
    this.#forget(writer.written, before, this.#snapshot);
    this.#findOpaque(this.#snapshot, mountedAt);
    const ours = await this.#digester.digest(this.#snapshot, this.#contents);
    if (end.digest === undefined || end.digest === ours.digest) return;
    const path = firstDifference(ours, end.prefixes);
    throw new DmigrateError(
      "VERIFY_FAILED",
      `The copy differs from the source ${path === undefined ? "at its end" : `at or just before ${showPath(path)}`}; ` +
        `make sure that nothing else writes to ${this.#tree.root}, and report it`,
    );
  }

  /** Resolves when everything applied is on the disk: before that, the source's copy must not go. Rejects with KERNEL. */
  async flush(): Promise<void> {
    const root = openRoot(this.#tree.root);
    try {
      await syncFileSystem(root);
    } finally {
      closeSync(root);
    }
  }

  /** Forgets the content of files that are gone or that somebody else has changed: those are read again. */
  #forget(written: ReadonlySet<BytePath>, before: Snapshot | undefined, now: Snapshot): void {
    for (const path of this.#contents.keys()) {
      const [entry, earlier] = [now.entries.get(path), before?.entries.get(path)];
      const isKept = entry !== undefined && earlier !== undefined && isUnchanged(earlier, entry);
      if (!isKept && !(written.has(path) && entry !== undefined)) this.#contents.delete(path);
    }
  }

  #learn({ path, inode }: Extract<Frame, { readonly frame: "put" }>): void {
    if (inode.kind.type === "directory" && inode.kind.opaque) this.#opaque.add(path);
    else this.#opaque.delete(path);
  }

  /**
   * Whether a directory is opaque is left to overlayfs, which does not say so of one that has nothing below it (it does of one that was
   * renamed). So where the source has an opaque directory and our upper says nothing, what is seen in it decides.
   */
  #findOpaque({ entries }: Snapshot, mountedAt: string): void {
    const root = openRoot(mountedAt);
    try {
      for (const path of this.#opaque) {
        const entry = entries.get(path);
        if (entry?.kind.type !== "directory") this.#opaque.delete(path);
        else if (!entry.kind.opaque && showsNothingElse(root, path, entries)) {
          entries.set(path, { ...entry, kind: { type: "directory", opaque: true } });
        }
      }
    } finally {
      closeSync(root);
    }
  }

  async #receive(stream: AsyncIterable<Uint8Array>, writer: TreeWriter): Promise<End> {
    const decoder = new FrameDecoder();
    const slices = new Slices();
    const prefixes: Uint8Array[] = [];
    let prefixBytes = 0;
    let digest: string | undefined;
    for await (const bytes of stream) {
      for (const frame of decoder.frames(bytes)) {
        if (frame.frame === "end") {
          digest = frame.digest;
        } else if (frame.frame === "digests") {
          prefixBytes += frame.prefixes.length;
          if (prefixBytes > PREFIXES_BYTES_MAX)
            throw new DmigrateError("PROTOCOL", "The stream of files has too many digests; update both agents to the same release");
          prefixes.push(new Uint8Array(frame.prefixes));
        } else {
          if (frame.frame === "put") this.#learn(frame);
          const pending = writer.apply(frame);
          if (pending !== undefined) await pending;
        }
        if (slices.over) await slices.next();
      }
    }
    decoder.end();
    return { digest, prefixes: Buffer.concat(prefixes) };
  }
}

type End = Pick<Extract<Frame, { readonly frame: "end" }>, "digest"> & { readonly prefixes: Uint8Array };

/** As many as 16 million entries have. */
const PREFIXES_BYTES_MAX = 64 * 1024 * 1024;

/** True if everything seen in a directory is in our upper. */
function showsNothingElse(root: number, path: BytePath, entries: Snapshot["entries"]): boolean {
  const fd = openBeneath(root, path, constants.O_RDONLY | constants.O_DIRECTORY);
  if (fd === undefined) return false;
  try {
    return namesIn(fd).every((name) => entries.has(childPath(path, name)));
  } finally {
    closeSync(fd);
  }
}
