/**
 * Chain ids, and archives that an engine takes only a part of.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import type { ServerResponse } from "node:http";
import { test } from "node:test";
import { serveEngine } from "../../test/support/engine.ts";
import { Engine } from "./engine.ts";
import { chainIds, importImage } from "./images.ts";

const digest = (text: string): string => `sha256:${createHash("sha256").update(text).digest("hex")}`;

test("a chain id names a layer with all below it", () => {
  const [a, b, c] = ["a", "b", "c"].map(digest) as [string, string, string];
  const ab = digest(`${a} ${b}`);
  assert.deepEqual(chainIds([]), []);
  assert.deepEqual(chainIds([a, b, c]), [a, ab, digest(`${ab} ${c}`)]);
  assert.notEqual(chainIds([b, a]).at(-1), ab);
});

async function* endless(): AsyncGenerator<Uint8Array, void> {
  for (;;) yield new Uint8Array(65_536);
}

test("an engine that ends while it loads an image is what failed", async (t) => {
  const socket = await serveEngine(t, (request, response) => {
    if (request.url === "/version") response.end('{"Version":"7","ApiVersion":"1.45","MinAPIVersion":"1.24"}');
    else request.once("data", () => request.socket.destroy());
  });
  const image = { id: digest("image"), reference: "redis", tags: [], layers: [] };
  const loading = importImage(await Engine.connect(socket), endless(), image, { id: image.id, added: true, tags: [] });
  await assert.rejects(loading, { code: "DOCKER", message: /ask Docker Engine for POST \/images\/load/ });
});

test("a disk that is full is said so, however the engine does", async (t) => {
  const answers = [
    (response: ServerResponse) => response.end('{"stream":"Loading"}\n{"error":"write /layer.tar: no space left on device"}'),
    (response: ServerResponse) => response.writeHead(500).end('{"message":"mkdir /var/lib/docker/tmp: no space left on device"}'),
  ];
  for (const answer of answers) {
    const socket = await serveEngine(t, (request, response) => {
      if (request.url === "/version") response.end('{"Version":"7","ApiVersion":"1.45","MinAPIVersion":"1.24"}');
      else request.resume().once("end", () => answer(response));
    });
    const archive = (async function* () {
      yield new Uint8Array(512);
    })();
    const image = { id: digest("image"), reference: "redis", tags: [], layers: [] };
    const loading = importImage(await Engine.connect(socket), archive, image, { id: image.id, added: true, tags: [] });
    await assert.rejects(loading, { code: "NO_SPACE", message: /no space left on device/ });
  }
});
