/**
 * Images on their way from one engine to another.
 */
import assert from "node:assert/strict";
import { buffer } from "node:stream/consumers";
import { Readable } from "node:stream";
import { test } from "node:test";
import tar from "tar-stream";
import { redisImage } from "../../lab/images/catalogue.ts";
import { ROOT_DIR } from "../../lab/setup.ts";
import { DmigrateError } from "../../src/core/errors.ts";
import {
  chainIds,
  discardImage,
  exportImage,
  importImage,
  planImport,
  presentLayers,
  type ImportedImage,
} from "../../src/docker/images.ts";
import type { Engine } from "../../src/docker/engine.ts";
import type { ImageDescription } from "../../src/docker/description.ts";
import { BASE, loadImage, twoHosts } from "./docker-fixtures.ts";

const hosts = twoHosts("h2");
const REDIS = redisImage(ROOT_DIR);

async function bring(engine: Engine, archive: AsyncIterable<Uint8Array>, image: ImageDescription): Promise<ImportedImage> {
  const plan = await planImport(engine, image);
  await importImage(engine, archive, image, plan);
  return plan;
}

async function entriesOf(archive: AsyncIterable<Uint8Array>): Promise<string[]> {
  const names: string[] = [];
  const entries = tar.extract();
  Readable.from(archive).pipe(entries);
  for await (const entry of entries) {
    if (entry.header.type === "file") names.push(entry.header.name);
    entry.resume();
  }
  return names;
}

const file = (diffId: string): string => `blobs/${diffId.replace(":", "/")}`;

test("an image crosses without the layers that the target has, and is the same image there", async () => {
  const { a, b } = hosts();
  const base = await loadImage(b.engine, BASE);
  const redis = await loadImage(a.engine, REDIS);
  const present = new Set(await presentLayers(b.engine));
  assert.deepEqual(present, new Set([base.id, ...chainIds(base.layers)]));

  const sent = await entriesOf(exportImage(a.engine, redis, present));
  assert.deepEqual(
    redis.layers.filter((diffId) => !sent.includes(file(diffId))),
    base.layers,
  );

  const imported = await bring(b.engine, exportImage(a.engine, redis, present), redis);
  assert.deepEqual(imported, { id: redis.id, added: true, tags: redis.tags });
  const [there, here] = await Promise.all([a, b].map(({ engine }) => engine.inspectImage(redis.id)));
  assert.deepEqual(here?.RootFS, there?.RootFS);
  assert.deepEqual(here?.RepoTags, there?.RepoTags);
  assert.match(await b.host.run("docker", "run", "--rm", "--entrypoint", "redis-server", ...redis.tags, "--version"), /Redis server/);

  await discardImage(b.engine, imported);
  assert.deepEqual(new Set(await presentLayers(b.engine)), present, "the image is gone and the base still there");
});

test("a layer that the target has in one place only is sent for the other", async () => {
  const { a, b } = hosts();
  const empty = { comment: "changes nothing" };
  const flag = { comment: "a flag", entries: { flag: { kind: "file", mode: 0o644, content: Buffer.from("up") } } } as const;
  const twice = await loadImage(a.engine, { ...BASE, name: "twice:1", layers: [...BASE.layers, empty, flag, empty] });
  const once = await loadImage(b.engine, { ...BASE, name: "once:1", layers: [...BASE.layers, empty] });
  const present = new Set(await presentLayers(b.engine));
  const sent = await entriesOf(exportImage(a.engine, twice, present));
  const [base, changesNothing] = once.layers.map(file);
  assert.deepEqual([sent.includes(base ?? ""), sent.includes(changesNothing ?? "")], [false, true]);
  const imported = await bring(b.engine, exportImage(a.engine, twice, present), twice);
  assert.equal(await b.host.run("docker", "run", "--rm", "twice:1", "cat", "/flag"), "up");
  await discardImage(b.engine, imported);
  await b.engine.removeImage("once:1");
});

test("an image that the target has is not sent", async () => {
  const { a, b } = hosts();
  const redis = await loadImage(a.engine, REDIS);
  await loadImage(b.engine, REDIS);
  const archive = await buffer(exportImage(a.engine, redis, new Set(await presentLayers(b.engine))));
  assert.equal(archive.length, 0);
  const imported = await bring(b.engine, Readable.from([archive]), redis);
  assert.deepEqual(imported, { id: redis.id, added: false, tags: [] });
  await discardImage(b.engine, imported);
  await discardImage(b.engine, { id: redis.id, added: true, tags: redis.tags });
  await assert.rejects(b.engine.inspectImage(redis.id), { code: "DOCKER" });
});

test("a name that another image has on the target stays with it", async () => {
  const { a, b } = hosts();
  const own = await loadImage(b.engine, { ...BASE, name: REDIS.name });
  const redis = await loadImage(a.engine, REDIS);
  const imported = await bring(b.engine, exportImage(a.engine, redis, new Set()), redis);
  assert.deepEqual(imported, { id: redis.id, added: true, tags: [] });
  assert.equal((await b.engine.inspectImage(REDIS.name)).Id, own.id);
  await discardImage(b.engine, imported);
  await b.engine.removeImage(REDIS.name);
});

test("an archive that breaks off leaves nothing and says why it broke off", async () => {
  const { a, b } = hosts();
  const redis = await loadImage(a.engine, REDIS);
  const before = new Set(await presentLayers(b.engine));
  const cut = new DmigrateError("PEER_UNREACHABLE", "Host a does not answer; see its agent");
  async function* broken(): AsyncGenerator<Uint8Array> {
    let bytes = 0;
    for await (const chunk of exportImage(a.engine, redis, new Set())) {
      if ((bytes += chunk.length) > 1_000_000) throw cut;
      yield chunk;
    }
  }
  await assert.rejects(bring(b.engine, broken(), redis), cut);
  assert.deepEqual(new Set(await presentLayers(b.engine)), before);
});

test("an archive without a layer that it should have, or of another image, is refused", async () => {
  const { a, b } = hosts();
  const redis = await loadImage(a.engine, REDIS);
  const lies = new Set(chainIds(redis.layers));
  await assert.rejects(bring(b.engine, exportImage(a.engine, redis, lies), redis), {
    code: "DOCKER",
    message: /could not load the image/,
  });
  const base = await loadImage(a.engine, BASE);
  await assert.rejects(bring(b.engine, exportImage(a.engine, base, new Set()), redis), { code: "DOCKER", message: /another image/ });
});
