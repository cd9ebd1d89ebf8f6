/**
 * What is left of a session once it was undone, whatever the engine says to it.
 */
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { serveEngine } from "../../../test/support/engine.ts";
import { temporaryDirectory } from "../../../test/support/hosts.ts";
import { containerId, hostName, newMigrationId } from "../../core/ids.ts";
import { Engine } from "../../docker/engine.ts";
import { Journal } from "../journal.ts";
import { Made } from "./made.ts";

const CONTAINER = containerId("c".repeat(64));
const IMAGE = `sha256:${"1".repeat(64)}`;

/** A session that has made one of everything, or two. */
function session(t: TestContext): Made {
  const journal = Journal.open(temporaryDirectory(t));
  const id = newMigrationId(1n);
  journal.begin({ id, role: "target", container: "web", containerId: CONTAINER, peer: hostName("a"), detail: {} });
  const made = new Made(journal, id);
  made.addImage({ id: IMAGE, added: true, tags: ["web:1"] });
  for (const network of ["n1", "n2"]) made.addNetwork(network);
  for (const volume of ["anonymous", "data"]) made.addVolume(volume, true);
  made.addContainer(CONTAINER, { Name: "always", MaximumRetryCount: 0 });
  return new Made(journal, id); // as an agent that comes later
}

/** An engine that refuses some removals; `removed` are those it was asked for and did. */
async function engineThat(t: TestContext, refusals: Readonly<Record<string, number>>): Promise<{ engine: Engine; removed: string[] }> {
  const removed: string[] = [];
  const socket = await serveEngine(t, ({ method, url = "" }, response) => {
    const thing = decodeURIComponent(url.replace(/^\/v1\.44\//, "").replace(/\?.*/, ""));
    if (url === "/version") return response.end(JSON.stringify({ Version: "7", ApiVersion: "1.44", MinAPIVersion: "1.24" }));
    if (method !== "DELETE") return response.writeHead(404).end(`{"message":"there is no ${thing}"}`);
    const refusal = refusals[thing];
    if (refusal !== undefined) return response.writeHead(refusal).end(`{"message":"${thing} stays"}`);
    removed.push(thing);
    return response.writeHead(204).end();
  });
  return { engine: await Engine.connect(socket), removed };
}

const ALL = [
  `containers/${CONTAINER}`,
  "volumes/anonymous",
  "volumes/data",
  "networks/n1",
  "networks/n2",
  "images/web:1",
  `images/${IMAGE}`,
];

test("all of it is removed", async (t) => {
  const { engine, removed } = await engineThat(t, {});
  await session(t).undo(engine);
  assert.deepEqual(removed, ALL);
});

test("what is gone already is no failure: an anonymous volume goes with its container", async (t) => {
  const gone = [`containers/${CONTAINER}`, "volumes/anonymous", "networks/n1", "images/web:1"];
  const { engine, removed } = await engineThat(t, Object.fromEntries(gone.map((thing) => [thing, 404])));
  await session(t).undo(engine);
  assert.deepEqual(
    removed,
    ALL.filter((thing) => !gone.includes(thing)),
  );
});

test("what can't be removed does not keep the rest, and is told", async (t) => {
  const stays = [`containers/${CONTAINER}`, "volumes/data", "networks/n1", "images/web:1"];
  const { engine, removed } = await engineThat(t, Object.fromEntries(stays.map((thing) => [thing, 500])));
  await assert.rejects(session(t).undo(engine), {
    code: "DOCKER",
    message: new RegExp(stays.map((thing) => `${thing} stays`).join("[^]*; also: [^]*")),
  });
  assert.deepEqual(
    removed,
    ALL.filter((thing) => !stays.includes(thing)),
  );
});
