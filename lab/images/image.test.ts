/**
 * Images are the same each time they are built, have their layers, and run.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { readFile, readdir } from "node:fs/promises";
import path from "node:path";
import { buffer } from "node:stream/consumers";
import { before, test } from "node:test";
import { ensureRoot } from "../setup.ts";
import { busyboxImage, redisImage, workloadsImage } from "./catalogue.ts";
import { buildImage } from "./image.ts";
import { Sandbox } from "./sandbox.ts";

let root: string;
before(async () => (root = await ensureRoot()));

test("an image that is built twice is the same to the byte", async () => {
  const [first, second] = await Promise.all([buildImage(redisImage(root), root), buildImage(redisImage(root), root)]);
  assert.equal(first.id, second.id);
  assert.deepEqual(await buffer(first.archive()), await buffer(second.archive()));
  assert.deepEqual(await buffer(first.archive()), await buffer(first.archive()));
});

test("the archive holds what its digests say", async () => {
  const image = await buildImage(redisImage(root), root);
  await using sandbox = await Sandbox.unpack(image);
  const folder = path.dirname(sandbox.root);
  const digest = async (file: string): Promise<string> =>
    `sha256:${createHash("sha256")
      .update(await readFile(path.join(folder, file)))
      .digest("hex")}`;
  const [manifest] = JSON.parse(await readFile(path.join(folder, "manifest.json"), "utf8"));
  assert.deepEqual(manifest.RepoTags, ["dmigrate/redis:latest"]);
  assert.equal(await digest(manifest.Config), image.id);
  const config = JSON.parse(await readFile(path.join(folder, manifest.Config), "utf8"));
  assert.deepEqual(await Promise.all(manifest.Layers.map(digest)), config.rootfs.diff_ids);
  assert.equal(manifest.Layers.length, 3);
  assert.equal(config.history.length, 3);
});

async function layersOf(specOf: typeof busyboxImage): Promise<string[]> {
  await using sandbox = await Sandbox.unpack(await buildImage(specOf(root), root));
  const [manifest] = JSON.parse(await readFile(path.join(path.dirname(sandbox.root), "manifest.json"), "utf8"));
  return manifest.Layers;
}

test("images share their lowest layer", async () => {
  const [busybox, redis, workloads] = await Promise.all([busyboxImage, redisImage, workloadsImage].map(layersOf));
  assert.equal(busybox?.length, 1);
  assert.equal(redis?.[0], busybox[0]);
  assert.equal(workloads?.[0], busybox[0]);
});

test("the programs of the images run", async () => {
  await using redis = await Sandbox.unpack(await buildImage(redisImage(root), root));
  assert.match((await redis.run("redis-server", "--version")).stdout, /^Redis server v=/);
  assert.match((await redis.run("redis-cli", "--version")).stdout, /^redis-cli /);
  const shell = await redis.run("sh", "-c", "set -e; id -un; ls / | grep -c .; stat -c %a /tmp; exit 3");
  assert.deepEqual([shell.code, shell.stdout.split("\n")[0], shell.stdout.split("\n")[2]], [3, "root", "1777"]);

  await using workloads = await Sandbox.unpack(await buildImage(workloadsImage(root), root));
  const modules =
    "import argparse, hashlib, json, mmap, random, selectors, signal, socket, tempfile, threading, zlib; print(mmap.PAGESIZE)";
  assert.deepEqual(await workloads.run("python3", "-c", modules), { code: 0, stdout: "4096\n" });
});

test("a sandbox that is disposed ends its programs and leaves nothing", async () => {
  const sandbox = await Sandbox.unpack(await buildImage(busyboxImage(root), root));
  const child = sandbox.spawn(["sleep", "1000"], "own", { stdio: "ignore" });
  const exited = once(child, "exit");
  await sandbox[Symbol.asyncDispose]();
  await exited;
  await assert.rejects(readdir(sandbox.root), { code: "ENOENT" });
});
