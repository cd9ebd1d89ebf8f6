/**
 * The source's side of copying a tree: rounds, of which each sends what the target does not have yet.
 */
import { closeSync } from "node:fs";
import { DmigrateError } from "../core/errors.ts";
import { statAt } from "../kernel/files.ts";
import { beginWriteback } from "../kernel/writeback.ts";
import { Batches, SMALL_BYTES } from "./batches.ts";
import { CHUNK_BYTES, encodeFrame, type Frame } from "./codec.ts";
import {
  bytesIn,
  chunkCount,
  chunkHash,
  chunkLength,
  openFile,
  plannedChunks,
  readChunk,
  readChunkSync,
  type ChunkPlan,
  type Content,
} from "./content.ts";
import { difference, type Step } from "./difference.ts";
import { Digester, type TreeDigest } from "./digest.ts";
import { fileError } from "./errors.ts";
import { toContainer, type IdMap } from "./id-map.ts";
import { showPath, type BytePath } from "./inode.ts";
import { isUnchanged, openRoot, scan, type Entry, type Snapshot, type Tree } from "./scan.ts";
import { Slices } from "./slices.ts";

export interface RoundOptions {
  /** Nothing may write to the tree any more; the round ends with the tree's digest. */
  readonly frozen: boolean;
  /** Resolves when a round that is not urgent may go on. */
  readonly turn?: () => Promise<void>;
}

/**
 * A tree to be copied while it is used. Reads only: not even times of access change.
 *
 * Each round sends the difference between the tree and what earlier rounds sent. What changes while it is read is sent as it happened
 * to be read, and again in the next round; after a frozen round the target has exactly the tree.
 */
export class TreeSource {
  readonly #tree: Tree;
  readonly #ids: IdMap | undefined;
  readonly #digester: Digester;
  /** What the target has: names and attributes, and the content of the files. */
  #sent: Snapshot | undefined;
  readonly #contents = new Map<BytePath, Content>();
  #isBroken = false;

  /** @param ids how the container's ids lie on this host's disk; without it they are the same */
  constructor(tree: Tree, ids?: IdMap) {
    this.#tree = tree;
    this.#ids = ids;
    this.#digester = new Digester(tree, ids);
  }

  /**
   * The stream of one round, for `TreeTarget.apply`. It must be read to its end and applied before the next: after a round that was
   * broken off this throws INTERNAL, and the copy must begin anew. Throws ROOTFS if something can't be copied or, in a frozen round,
   * changes.
   */
  async *round({ frozen, turn }: RoundOptions): AsyncGenerator<Uint8Array, void> {
    if (this.#isBroken) throw new DmigrateError("INTERNAL", "What the target has is unknown after a broken round; copy the tree anew");
    this.#isBroken = true;
    const slices = new Slices(turn);
    const current = await scan(this.#tree, this.#sent, slices);
    const root = openRoot(this.#tree.root);
    try {
      const round = new Round(root, current, this.#contents, this.#ids, frozen);
      yield* round.steps(difference(this.#sent, current), slices);
      this.#forget(current);
      const { digest, prefixes } = await this.#digester.digest(current, this.#contents, slices);
      yield* round.end(frozen ? { digest, prefixes } : undefined);
    } finally {
      closeSync(root);
    }
    this.#sent = current;
    this.#isBroken = false;
  }

  #forget(current: Snapshot): void {
    for (const path of this.#contents.keys()) {
      const entry = current.entries.get(path);
      if (entry?.kind.type !== "file" || entry.linkOf !== undefined) this.#contents.delete(path);
    }
  }
}

const EMPTY = Buffer.alloc(0);
const PREFIXES_BYTES_MAX = 256 * 1024;
/** Where small files are read; each is copied on before the next one comes. */
const scratch = Buffer.alloc(SMALL_BYTES);

/** One round on its way: turns steps into bytes, and corrects `current` and `contents` by what was really sent. */
class Round {
  readonly #root: number;
  readonly #current: Snapshot;
  readonly #contents: Map<BytePath, Content>;
  readonly #ids: IdMap | undefined;
  readonly #frozen: boolean;
  readonly #out = new Batches();
  /** Files that vanished between the scan and the reading. */
  readonly #gone = new Set<BytePath>();

  constructor(root: number, current: Snapshot, contents: Map<BytePath, Content>, ids: IdMap | undefined, frozen: boolean) {
    this.#root = root;
    this.#current = current;
    this.#contents = contents;
    this.#ids = ids;
    this.#frozen = frozen;
  }

  async *steps(steps: Iterable<Step>, slices: Slices): AsyncGenerator<Uint8Array, void> {
    for (const step of steps) {
      try {
        if (step.frame === "put" && step.inode.kind.type === "file") {
          const { size } = step.inode.kind;
          if (size <= SMALL_BYTES) this.#smallFile(step, size);
          else yield* this.#largeFile(step, size);
        } else if (step.frame === "link" && this.#gone.has(step.to)) this.#vanished(step.path);
        else this.#send(step);
      } catch (error) {
        throw fileError("read", step.path, error);
      }
      yield* this.#out.take();
      if (slices.over) await slices.next();
    }
  }

  /** Ends the stream, in a frozen round with the digest. */
  async *end(tree: Pick<TreeDigest, "digest" | "prefixes"> | undefined): AsyncGenerator<Uint8Array, void> {
    const prefixes = tree?.prefixes ?? EMPTY;
    for (let at = 0; at < prefixes.length; at += PREFIXES_BYTES_MAX) {
      this.#send({ frame: "digests", prefixes: prefixes.subarray(at, at + PREFIXES_BYTES_MAX) });
    }
    this.#send({ frame: "end", digest: tree?.digest });
    yield* this.#out.finish();
  }

  #smallFile(step: Put, size: number): void {
    const file = this.#open(step, size);
    if (file === undefined) return;
    try {
      for (const plan of plannedChunks(file.fd, size, step.inode.allocated)) {
        this.#protect(file, plan);
        const data = scratch.subarray(0, bytesIn(plan.pieces));
        readChunkSync(file.fd, plan, data);
        this.#chunk(file, plan, data);
      }
      this.#close(file);
    } finally {
      closeSync(file.fd);
    }
  }

  async *#largeFile(step: Put, size: number): AsyncGenerator<Uint8Array, void> {
    const file = this.#open(step, size);
    if (file === undefined) return;
    try {
      let buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES);
      for (const plan of plannedChunks(file.fd, size, step.inode.allocated)) {
        this.#protect(file, plan);
        const data = buffer.subarray(0, bytesIn(plan.pieces));
        await readChunk(file.fd, plan, data);
        if (!this.#chunk(file, plan, data)) continue;
        buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES); // the sent one belongs to the stream
        yield* this.#out.take();
      }
      this.#close(file);
    } finally {
      closeSync(file.fd);
    }
  }

  #open(step: Put, size: number): FileOnItsWay | undefined {
    const { path, inode: entry, fresh } = step;
    const fd = openFile(this.#root, path);
    if (fd === undefined) {
      this.#vanished(path);
      return undefined;
    }
    this.#send(step);
    const before = fresh ? undefined : this.#contents.get(path);
    return { path, entry, fd, size, before: before ?? new Map(), after: new Map() };
  }

  /** From here on a store through a mapping changes the file's times, and the next scan sees it. */
  #protect({ fd }: FileOnItsWay, { index }: ChunkPlan): void {
    if (!this.#frozen) beginWriteback(fd, index * CHUNK_BYTES, CHUNK_BYTES);
  }

  /** Sends a chunk unless the target has it or it is all zeros; true if it was sent. */
  #chunk({ before, after, size }: FileOnItsWay, { index, pieces }: ChunkPlan, data: Uint8Array): boolean {
    const hash = chunkHash(pieces, data, chunkLength(size, index));
    if (hash === undefined) return false;
    after.set(index, hash);
    if (hash === before.get(index)) return false;
    this.#send({ frame: "chunk", index, pieces, data });
    return true;
  }

  #close({ path, entry, fd, size, before, after }: FileOnItsWay): void {
    for (const index of before.keys()) {
      if (!after.has(index) && index < chunkCount(size)) this.#send({ frame: "chunk", index, pieces: [], data: EMPTY });
    }
    this.#contents.set(path, after);
    if (!this.#frozen) return; // a change since the scan shows in the next one
    const stat = statAt(fd, "");
    if (stat === undefined || !isUnchanged(entry, stat)) throw changedInFreeze(path);
  }

  #vanished(path: BytePath): void {
    if (this.#frozen) throw changedInFreeze(path);
    this.#gone.add(path);
    this.#current.entries.delete(path);
    this.#send({ frame: "remove", path });
  }

  #send(frame: Frame): void {
    const mapped = frame.frame === "put" && this.#ids !== undefined ? { ...frame, inode: toContainer(frame.inode, this.#ids) } : frame;
    this.#out.add(encodeFrame(mapped));
  }
}

type Put = Extract<Step, { readonly frame: "put" }>;

/** A file between its opening and its end. */
interface FileOnItsWay {
  readonly path: BytePath;
  readonly entry: Entry;
  readonly fd: number;
  readonly size: number;
  /** What the target has of it. */
  readonly before: Content;
  /** What the target will have of it. */
  readonly after: Content;
}

function changedInFreeze(path: BytePath): DmigrateError {
  return new DmigrateError(
    "ROOTFS",
    `${showPath(path)} changed although the container is frozen; stop whatever else writes there, then migrate again`,
  );
}
