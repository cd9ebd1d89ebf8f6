/**
 * HTTP to an engine, played by a server that answers as engines and broken ones do.
 */
import assert from "node:assert/strict";
import type { ServerResponse } from "node:http";
import { buffer, text } from "node:stream/consumers";
import { test } from "node:test";
import { serveEngine } from "../../test/support/engine.ts";
import { DmigrateError } from "../core/errors.ts";
import { Engine } from "./engine.ts";
import { Transport, isNotFound, refusalOf } from "./transport.ts";

test("a refusal is an error with the engine's words and its status", async (t) => {
  const socket = await serveEngine(t, (_, response) => response.writeHead(409).end('{"message":"name is in use"}\n'));
  const refusal = new Transport(socket, "/v1.44").json("POST", "/containers/create", { query: { name: "a b" }, body: {} });
  await assert.rejects(refusal, (error) => {
    assert(error instanceof DmigrateError);
    assert.equal(error.code, "DOCKER");
    assert.match(error.message, /POST \/containers\/create with 409: name is in use; /);
    assert.equal(refusalOf(error)?.status, 409);
    assert.equal(isNotFound(error), false);
    return true;
  });
});

test("a refusal in other words than Docker's is shown as it is", async (t) => {
  const socket = await serveEngine(t, (_, response) => response.writeHead(404).end("<h1>nothing here</h1>"));
  await assert.rejects(
    new Transport(socket, "").json("GET", "/x"),
    (error) => isNotFound(error) && /<h1>nothing here<\/h1>/.test(String(error)),
  );
});

test("path, query and body arrive as they are meant", async (t) => {
  const socket = await serveEngine(t, (request, response) => {
    void text(request).then((body) => response.end(JSON.stringify([request.method, request.url, request.headers["content-type"], body])));
  });
  const transport = new Transport(socket, "/v1.44");
  const answer = await transport.json("POST", "/a/b", {
    query: { name: "x y&z", all: true, none: undefined },
    body: { n: JSON.rawJSON("9223372036854775807") },
  });
  assert.deepEqual(answer, ["POST", "/v1.44/a/b?name=x+y%26z&all=true", "application/json", '{"n":9223372036854775807}']);
  assert.deepEqual(await transport.with({ prefix: "" }).json("GET", "/c"), ["GET", "/c", null, ""]);
});

async function* upload(breaks: boolean): AsyncGenerator<Uint8Array> {
  for (let chunk = 0; chunk < 100; chunk++) yield new Uint8Array(100_000);
  if (breaks) throw new DmigrateError("TRANSFER_FAILED", "cut; try again");
}

test("a stream that is uploaded arrives whole; if it breaks, that is the error", async (t) => {
  const socket = await serveEngine(t, (request, response) => {
    request.on("error", () => {}); // the upload that breaks
    void buffer(request).then(
      (body) => response.end(String(body.length)),
      () => {},
    );
  });
  const transport = new Transport(socket, "");
  assert.equal(await text(await transport.stream("POST", "/images/load", { upload: upload(false) })), "10000000");
  await assert.rejects(transport.stream("POST", "/images/load", { upload: upload(true) }), { code: "TRANSFER_FAILED" });
});

test("an engine that is not there is said to be unreachable", async () => {
  await assert.rejects(Engine.connect("/nonexistent/docker.sock"), {
    code: "DOCKER",
    message: /reach Docker Engine at \/nonexistent\/docker\.sock/,
  });
});

test("a signal ends a request that waits, with its own reason", async (t) => {
  const socket = await serveEngine(t, () => {});
  const abort = new AbortController();
  const waiting = new Transport(socket, "").with({ signal: abort.signal }).json("GET", "/containers/held/json");
  abort.abort(new DmigrateError("TIMEOUT", "the engine was not done in time; try again"));
  await assert.rejects(waiting, { code: "TIMEOUT" });
});

test("an engine that hangs, before its answer or in it, is an error; one that shall wait may", async (t) => {
  const waits: ServerResponse[] = [];
  const socket = await serveEngine(t, ({ url }, response) => {
    if (url === "/half") response.write('{"a":');
    if (url === "/wait") waits.push(response);
  });
  const impatient = new Transport(socket, "", { limitMs: 50 });
  const waiting = impatient.with({ limitMs: Infinity }).json("POST", "/wait");
  for (const path of ["/none", "/half"]) {
    const message = new RegExp(`has not answered GET ${path} for 0\\.05 s; see whether dockerd hangs`);
    await assert.rejects(impatient.json("GET", path), { code: "DOCKER", message });
  }
  for (const response of waits) response.end("7");
  assert.equal(await waiting, 7);
});

test("an answer that breaks off, or is no JSON, or has another form is an error", async (t) => {
  const answers: Record<string, (response: ServerResponse) => void> = {
    "/cut": (response) => {
      response.writeHead(200, { "content-length": 100 });
      response.write('{"a":', () => response.destroy());
    },
    "/text": (response) => response.end("hello"),
    "/version": (response) => response.end('{"ApiVersion":7}'),
  };
  const socket = await serveEngine(t, (request, response) => answers[request.url ?? ""]?.(response));
  const transport = new Transport(socket, "");
  await assert.rejects(transport.json("GET", "/cut"), { code: "DOCKER" });
  await assert.rejects(text(await transport.stream("GET", "/cut")), { code: "DOCKER", message: /Docker Engine for GET \/cut/ });
  await assert.rejects(transport.json("GET", "/text"), { code: "DOCKER" });
  await assert.rejects(Engine.connect(socket), { code: "DOCKER", message: /another form than expected[^]*ApiVersion/ });
});

for (const [versions, url] of [
  [{ ApiVersion: "1.45", MinAPIVersion: "1.24" }, "/v1.45/info"],
  [{ ApiVersion: "1.44", MinAPIVersion: "1.12" }, "/v1.44/info"],
  [{ ApiVersion: "1.99", MinAPIVersion: "1.44" }, "/v1.51/info"],
  [{ ApiVersion: "1.43", MinAPIVersion: "1.12" }, undefined],
  [{ ApiVersion: "1.99", MinAPIVersion: "1.60" }, undefined],
  [{ ApiVersion: "2.0", MinAPIVersion: "2.0" }, undefined],
] as const) {
  const outcome = url === undefined ? "is refused" : `is asked at ${url}`;
  test(`an engine of API ${versions.MinAPIVersion} to ${versions.ApiVersion} ${outcome}`, async (t) => {
    const asked: string[] = [];
    const socket = await serveEngine(t, (request, response) => {
      asked.push(request.url ?? "");
      response.end(request.url === "/version" ? JSON.stringify({ Version: "7", ...versions }) : "{}");
    });
    const engine = Engine.connect(socket);
    if (url === undefined) return await assert.rejects(engine, { code: "DOCKER", message: /update whichever is older/ });
    await assert.rejects((await engine).info(), { code: "DOCKER" });
    assert.deepEqual(asked, ["/version", url]);
  });
}
