/**
 * What the tests of src/docker begin with: a lab of two hosts, their engines, and images on them.
 */
import { text } from "node:stream/consumers";
import { after, before } from "node:test";
import { busyboxImage } from "../../lab/images/catalogue.ts";
import { buildImage, type ImageSpec } from "../../lab/images/image.ts";
import type { Host } from "../../lab/host.ts";
import { Lab } from "../../lab/lab.ts";
import { ROOT_DIR } from "../../lab/setup.ts";
import type { ImageDescription } from "../../src/docker/description.ts";
import { Engine } from "../../src/docker/engine.ts";

/** A host with its engine. */
export interface EngineHost {
  readonly host: Host;
  readonly engine: Engine;
}

/** The hosts of a test. */
export interface TwoHosts {
  readonly a: EngineHost;
  readonly b: EngineHost;
}

/**
 * Two hosts for the tests of a file, there while its tests run.
 * @param name of the lab; files run side by side
 * @param prepare what all its tests need on them
 */
export function twoHosts(name: string, prepare: (hosts: TwoHosts) => Promise<void> = async () => {}): () => TwoHosts {
  let lab: Lab | undefined;
  let hosts: TwoHosts | undefined;
  before(async () => {
    lab = await Lab.up({ name, hosts: ["a", "b"] });
    hosts = { a: await engineHost(lab.host("a")), b: await engineHost(lab.host("b")) };
    await prepare(hosts);
  });
  after(async () => await lab?.down());
  return () => {
    if (hosts === undefined) throw new Error("Hosts are there while tests run");
    return hosts;
  };
}

async function engineHost(host: Host): Promise<EngineHost> {
  return { host, engine: await Engine.connect(host.dockerSocket) };
}

/** The base layer of all images. */
export const BASE = busyboxImage(ROOT_DIR);

/** Builds an image and loads it into an engine. */
export async function loadImage(engine: Engine, spec: ImageSpec): Promise<ImageDescription> {
  const { archive, id } = await buildImage(spec, ROOT_DIR);
  await text(await engine.loadImage(archive()));
  const { RootFS, RepoTags } = await engine.inspectImage(id);
  return { id, reference: spec.name, tags: RepoTags ?? [], layers: RootFS.Layers ?? [] };
}
