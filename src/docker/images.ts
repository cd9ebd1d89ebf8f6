/**
 * Carries an image from one engine to another, without the layers that the other one has.
 */
import { createHash } from "node:crypto";
import { readdir } from "node:fs/promises";
import path from "node:path";
import type { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import tar from "tar-stream";
import { DmigrateError, tryAll } from "../core/errors.ts";
import type { ImageDescription } from "./description.ts";
import type { Engine } from "./engine.ts";
import { parseExact } from "../core/json.ts";
import { FULL, isNotFound, refusalOf } from "./transport.ts";

/**
 * Chain ids of an image's layers, from the bottom: each names a layer with all below it (OCI image specification, "Layer ChainID").
 * @param diffIds digests of the layers' own archives, from the bottom
 */
export function chainIds(diffIds: readonly string[]): string[] {
  const chain: string[] = [];
  for (const diffId of diffIds) {
    const below = chain.at(-1);
    chain.push(below === undefined ? diffId : `sha256:${createHash("sha256").update(`${below} ${diffId}`).digest("hex")}`);
  }
  return chain;
}

/**
 * What an engine need not be sent: the ids of its images, and the chain ids of their layers. Of an engine that stores images in
 * containerd nothing but the images' ids, for it takes only archives that are complete.
 */
export async function presentLayers(engine: Engine): Promise<string[]> {
  const images = await engine.listImages({ all: true });
  const byChain = !(await storesInContainerd(engine));
  const present = new Set<string>();
  for (const { Id } of images) {
    const chain = await layersOf(engine, Id);
    if (chain === undefined) continue;
    present.add(Id);
    if (byChain) for (const id of chain) present.add(id);
  }
  return [...present];
}

async function storesInContainerd(engine: Engine): Promise<boolean> {
  const { DriverStatus } = await engine.info();
  return DriverStatus?.some(([key, value]) => key === "driver-type" && value === "io.containerd.snapshotter.v1") ?? false;
}

/** Undefined if the image was removed meanwhile. */
async function layersOf(engine: Engine, id: string): Promise<string[] | undefined> {
  try {
    return chainIds((await engine.inspectImage(id)).RootFS.Layers ?? []);
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

/**
 * An archive of the image that `importImage` takes, with only those layers that are not `present`: the engine takes a layer it has by
 * its chain id and does not look for its file (moby's image/tarexport/load.go). Empty if the image itself is present.
 */
export async function* exportImage(
  engine: Engine,
  image: ImageDescription,
  present: ReadonlySet<string>,
): AsyncGenerator<Uint8Array, void> {
  if (present.has(image.id)) return;
  const omitted = presentBlobs(image.layers, present);
  const archive = await engine.saveImage(image.id);
  const slimmed = tar.pack();
  const copied = copyEntries(archive, slimmed, (name) => !omitted.has(name));
  copied.catch((error: unknown) => slimmed.destroy(DmigrateError.from(error, "DOCKER")));
  try {
    yield* slimmed as AsyncIterable<Buffer>; // what a byte stream is made of
    await copied;
  } finally {
    archive.destroy();
  }
}

/** Files of the archive that hold nothing but present layers; an archive holds layers with equal contents once. */
function presentBlobs(diffIds: readonly string[], present: ReadonlySet<string>): Set<string> {
  const chain = chainIds(diffIds);
  const missing = new Set(diffIds.filter((_, index) => !present.has(chain[index] ?? "")));
  return new Set(diffIds.filter((diffId) => !missing.has(diffId)).map((diffId) => `blobs/${diffId.replace(":", "/")}`));
}

async function copyEntries(archive: Readable, to: tar.Pack, isWanted: (name: string) => boolean): Promise<void> {
  const entries = tar.extract();
  const read = pipeline(archive, entries);
  read.catch(() => {}); // `entries` fails with the same error
  for await (const entry of entries) {
    if (isWanted(entry.header.name)) await pipeline(entry, to.entry(entry.header));
    else entry.resume();
  }
  await read;
  to.finalize();
}

/** What importing an image changed on an engine, so that a rollback can undo it. */
export interface ImportedImage {
  readonly id: string;
  /** False if the engine had it. */
  readonly added: boolean;
  /** Names it was given. */
  readonly tags: readonly string[];
}

/** What `importImage` will do; to be known before it begins, so that it can be undone whatever becomes of it. */
export async function planImport(engine: Engine, image: ImageDescription): Promise<ImportedImage> {
  const known = await engine.listImages({ all: true });
  const taken = new Set(known.flatMap(({ RepoTags }) => RepoTags ?? []));
  return { id: image.id, added: !known.some(({ Id }) => Id === image.id), tags: image.tags.filter((tag) => !taken.has(tag)) };
}

/**
 * Takes what `exportImage` gave and gives the image those of its names that no other image has here.
 * @throws DOCKER if the archive can't be loaded or does not hold that image
 */
export async function importImage(
  engine: Engine,
  archive: AsyncIterable<Uint8Array>,
  image: ImageDescription,
  { tags }: ImportedImage,
): Promise<void> {
  await load(engine, archive);
  try {
    await engine.inspectImage(image.id);
  } catch (error) {
    if (!isNotFound(error)) throw error;
    throw new DmigrateError(
      "DOCKER",
      `The archive of image ${image.reference} holds another image than ${image.id}; see that both engines store images the same way`,
      error,
    );
  }
  for (const tag of tags) await engine.tagImage(image.id, tag);
}

async function load(engine: Engine, archive: AsyncIterable<Uint8Array>): Promise<void> {
  let broken: unknown;
  const chunks = archive[Symbol.asyncIterator]();
  let first = await chunks.next();
  while (first.done !== true && first.value.length === 0) first = await chunks.next();
  if (first.done === true) return;
  // Not around the `yield`: into that a stream throws what happens to whoever reads it, which here is the engine.
  const read = (): Promise<IteratorResult<Uint8Array, unknown>> =>
    chunks.next().catch((error: unknown) => {
      broken = error;
      throw error;
    });
  async function* whole(): AsyncGenerator<Uint8Array, void> {
    try {
      for (let next: IteratorResult<Uint8Array, unknown> = first; next.done !== true; next = await read()) yield next.value;
    } finally {
      await chunks.return?.();
    }
  }
  try {
    throwLoadError(await text(await engine.loadImage(whole())));
  } catch (error) {
    // What the engine says of half an archive hides why it was half.
    throw DmigrateError.from(broken ?? error, "DOCKER");
  }
}

/** The answer is a line of JSON for each step; one that failed has `error`. */
function throwLoadError(answer: string): void {
  for (const line of answer.split("\n").filter((candidate) => candidate.trim() !== "")) {
    const step = parseExact(line);
    if (typeof step === "object" && step !== null && "error" in step) {
      throw new DmigrateError(
        FULL.test(String(step.error)) ? "NO_SPACE" : "DOCKER",
        `Docker Engine could not load the image: ${String(step.error)}; see that its disk has room and try again`,
      );
    }
  }
}

/** Where, below its root, the engine unpacks each archive that it loads (moby's image/tarexport/load.go). */
const LOADS = "tmp";
const LOAD = /^docker-import-/;
const LOAD_LIMIT_MS = 60_000;
const LOAD_POLL_MS = 100;

/**
 * Returns when the engine loads nothing, or after a minute. It goes on with an archive whose sender has died, and an image that is removed
 * before all its layers are there appears when they are.
 */
export async function awaitLoads(engine: Engine): Promise<void> {
  const folder = path.join((await engine.info()).DockerRootDir, LOADS);
  const isLoading = async (): Promise<boolean> => (await readdir(folder).catch(() => [])).some((name) => LOAD.test(name));
  const deadline = performance.now() + LOAD_LIMIT_MS;
  while ((await isLoading()) && performance.now() < deadline) await sleep(LOAD_POLL_MS);
}

/** Undoes `importImage`, as far as it came; an image that something uses by now stays. */
export async function discardImage(engine: Engine, { id, added, tags }: ImportedImage): Promise<void> {
  const references = added ? [...tags, id] : tags;
  await tryAll(
    references.map((reference) => async () => {
      await engine.removeImage(reference).catch((error: unknown) => {
        // 404: with its last name the image went, too. 409: a container uses it.
        if (![404, 409].includes(refusalOf(error)?.status ?? 0)) throw error;
      });
    }),
  );
}
