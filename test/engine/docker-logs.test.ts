/**
 * `docker logs` on the target says what it says on the source, and goes on.
 */
import assert from "node:assert/strict";
import { appendFile, mkdir, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { until } from "../../lab/host.ts";
import { containerId } from "../../src/core/ids.ts";
import { createContainer } from "../../src/docker/create.ts";
import { describe } from "../../src/docker/describe.ts";
import { discardContainer } from "../../src/docker/lifecycle.ts";
import { outputPipes, replayOutput } from "../../src/docker/log-entries.ts";
import { LogHistory, applyLogFiles, logPlace, type LogPlace } from "../../src/docker/log-files.ts";
import { BASE, loadImage, twoHosts, type EngineHost } from "./docker-fixtures.ts";

const hosts = twoHosts("h3", async ({ a, b }) => {
  for (const { engine, host } of [a, b]) {
    await loadImage(engine, BASE);
    await mkdir(`${host.root}/srv/feed`);
  }
});

/** Prints what the test writes into a file of the host. */
const PRINTS = { Image: BASE.name, Cmd: ["tail", "-n", "+1", "-f", "/feed/lines"], HostConfig: { Binds: ["/srv/feed:/feed"] } };

const feed = ({ host }: EngineHost): string => `${host.root}/srv/feed/lines`;

async function print(on: EngineHost, from: number, to: number): Promise<void> {
  const lines = Array.from({ length: to - from + 1 }, (_, n) => `line ${from + n} ${"x".repeat(80)}\n`);
  await appendFile(feed(on), lines.join(""));
  await until(`line ${to} in the log`, async () => (await logs(on, "--tail", "1")).includes(`line ${to} `));
}

async function logs({ host }: EngineHost, ...options: string[]): Promise<string> {
  return await host.run("docker", "logs", ...options, "talker");
}

async function placeOf({ engine, host }: EngineHost): Promise<LogPlace> {
  const { Id, HostConfig } = await engine.inspectContainer("talker");
  const { DockerRootDir } = await engine.info();
  const place = logPlace(`${host.root}${DockerRootDir}`, containerId(Id), HostConfig.LogConfig.Type);
  assert(place);
  return place;
}

const kinds = [
  { kind: "json-file", tty: false, log: undefined },
  { kind: "a terminal", tty: true, log: undefined },
  {
    kind: "json-file that rotates",
    tty: false,
    log: { Type: "json-file", Config: { "max-size": "20k", "max-file": "4", compress: "true" } },
  },
  { kind: "local that rotates", tty: false, log: { Type: "local", Config: { "max-size": "20k", "max-file": "3" } } },
];

for (const { kind, tty, log } of kinds) {
  test(`the log history crosses with ${kind}`, async (t) => {
    const { a, b } = hosts();
    t.after(async () => {
      for (const { engine } of [a, b]) await discardContainer(engine, "talker", { volumes: true });
    });
    for (const on of [a, b]) await writeFile(feed(on), "");
    await a.engine.createContainer("talker", { ...PRINTS, Tty: tty, HostConfig: { ...PRINTS.HostConfig, LogConfig: log } });
    await a.engine.startContainer("talker");
    await print(a, 1, 300);
    const { id } = await createContainer(b.engine, await describe(a.engine, "talker"), "runc");

    await using history = new LogHistory(await placeOf(a));
    const place = await placeOf(b);
    await applyLogFiles(place, history.files());
    await print(a, 301, 310);
    await applyLogFiles(place, history.files());
    await b.engine.startContainer("talker");
    assert.equal(await logs(b, "-t"), await logs(a, "-t"), "with the times");

    await print(a, 311, 340);
    // The container has started: it has its own ends of the pipes, and ours would keep the engine waiting when it ends.
    (await replayOutput(outputPipes(id, `${b.host.root}/run/docker`), history.output()))[Symbol.dispose]();
    await until("line 340 in the log", async () => (await logs(b, "--tail", "1")).includes("line 340 "));
    const wanted = (await logs(a)).split("\n");
    assert.deepEqual((await logs(b)).split("\n").slice(-wanted.length), wanted);

    await print(b, 341, 350);
    assert.match(await logs(b, "--tail", "11"), /^line 340 [^]*\nline 350 x+\r?\n$/);
  });
}
