/**
 * Builds Docker images without any registry: an archive for `docker load`, made of files of a Debian root file system.
 * The same root gives the same bytes, hence the same image id.
 */
import { createHash } from "node:crypto";
import tar from "tar-stream";
import { DebianRoot } from "./debian-root.ts";
import { BUILT_AT, packTar, type Entry } from "./entries.ts";

/** An image to build. */
export interface ImageSpec {
  /** Repository and tag, like `dmigrate/redis:latest`. */
  readonly name: string;
  /** The lowest layer first. */
  readonly layers: readonly LayerSpec[];
  readonly config: ImageConfig;
}

/** One layer. What a lower layer already holds is left out. */
export interface LayerSpec {
  readonly comment: string;
  /** Globs over the Debian root, without a leading slash; programs bring their libraries along. */
  readonly fromRoot?: readonly string[];
  /** Further entries by path, without a leading slash. */
  readonly entries?: Readonly<Record<string, Entry>>;
}

/** What a container of the image runs by default: keys of the OCI image configuration, section "config". */
export interface ImageConfig {
  readonly Entrypoint?: readonly string[];
  readonly Cmd?: readonly string[];
  readonly Env?: readonly string[];
  readonly WorkingDir?: string;
  readonly ExposedPorts?: Readonly<Record<string, object>>;
  readonly StopSignal?: string;
}

/** A built image. */
export interface Image {
  readonly name: string;
  /** `sha256:` and the digest of its configuration: what `docker image inspect` calls Id. */
  readonly id: string;
  /** Reads the archive for `docker load`; may be called again. */
  readonly archive: () => AsyncIterable<Uint8Array>;
}

interface Layer {
  readonly diffId: string;
  readonly content: Buffer;
}

/**
 * Builds an image.
 * @param rootDir an unpacked Debian root file system
 * @throws LAB if the root lacks a file
 */
export async function buildImage(spec: ImageSpec, rootDir: string): Promise<Image> {
  const root = new DebianRoot(rootDir);
  const layers: Layer[] = [];
  const below = new Set<string>();
  for (const layer of spec.layers) layers.push(await buildLayer(layer, rootDir, below));
  const config = JSON.stringify({
    architecture: root.architecture,
    os: "linux",
    created: BUILT_AT.toISOString(),
    config: spec.config,
    rootfs: { type: "layers", diff_ids: layers.map(({ diffId }) => `sha256:${diffId}`) },
    history: spec.layers.map(({ comment }) => ({ created: BUILT_AT.toISOString(), created_by: comment })),
  });
  const digest = sha256(config);
  return { name: spec.name, id: `sha256:${digest}`, archive: () => packArchive(spec.name, digest, config, layers) };
}

/** @param below paths of the layers beneath; grows by this one's */
async function buildLayer(spec: LayerSpec, rootDir: string, below: Set<string>): Promise<Layer> {
  const root = new DebianRoot(rootDir);
  for (const pattern of spec.fromRoot ?? []) root.take(pattern);
  const own = new Map<string, Entry>([...root.entries].filter(([file]) => !below.has(file)));
  for (const [file, entry] of Object.entries(spec.entries ?? {})) own.set(file, entry);
  for (const file of own.keys()) below.add(file);
  const content = await packTar(own);
  return { diffId: sha256(content), content };
}

/** The archive as `docker save` describes it in Docker's image specification 1.2: manifest.json names the rest. */
async function* packArchive(name: string, digest: string, config: string, layers: readonly Layer[]): AsyncGenerator<Uint8Array> {
  const pack = tar.pack();
  const add = (file: string, content: Buffer): void => void pack.entry({ name: file, mtime: BUILT_AT, mode: 0o644 }, content);
  const layerFile = ({ diffId }: Layer): string => `${diffId}.tar`;
  add("manifest.json", Buffer.from(JSON.stringify([{ Config: `${digest}.json`, RepoTags: [name], Layers: layers.map(layerFile) }])));
  add(`${digest}.json`, Buffer.from(config));
  for (const layer of layers) add(layerFile(layer), layer.content);
  pack.finalize();
  yield* pack as AsyncIterable<Buffer>; // what a byte stream is made of
}

function sha256(content: string | Buffer): string {
  return createHash("sha256").update(content).digest("hex");
}
