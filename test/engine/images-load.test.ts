/**
 * The lab's images and workloads in a real Docker Engine.
 */
import assert from "node:assert/strict";
import { text } from "node:stream/consumers";
import { after, before, describe, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { busyboxImage, redisImage, workloadNames, workloadsImage } from "../../lab/images/catalogue.ts";
import { buildImage } from "../../lab/images/image.ts";
import { until, type Host } from "../../lab/host.ts";
import { Lab } from "../../lab/lab.ts";
import { ROOT_DIR } from "../../lab/setup.ts";
import { Engine } from "../../src/docker/engine.ts";

let lab: Lab;
before(async () => {
  lab = await Lab.up({ name: "h7", hosts: ["plain", "remapped"], usernsRemap: ["remapped"] });
});
after(async () => await lab.down());

/** Starts a container that goes with the test; returns its id. */
async function start(t: TestContext, host: Host, ...args: readonly string[]): Promise<string> {
  const id = (await host.run("docker", "run", "--detach", ...args)).trim();
  t.after(async () => await host.run("docker", "rm", "--force", "--volumes", id));
  return id;
}

for (const name of ["plain", "remapped"]) {
  describe(`on host ${name}`, () => {
    let host: Host;
    before(() => (host = lab.host(name)));

    for (const specOf of [busyboxImage, redisImage, workloadsImage]) {
      test(`${specOf.name} is loaded, and has the id that was foretold`, async () => {
        const image = await buildImage(specOf(ROOT_DIR), ROOT_DIR);
        const engine = await Engine.connect(host.dockerSocket);
        await text(await engine.loadImage(image.archive()));
        assert.equal((await host.run("docker", "image", "inspect", "--format", "{{.Id}}", image.name)).trim(), image.id);
      });
    }

    test("redis serves", async (t) => {
      const id = await start(t, host, "dmigrate/redis", "--maxmemory", "100mb");
      const cli = async (...args: readonly string[]): Promise<string> =>
        (await host.run("docker", "exec", id, "redis-cli", ...args)).trim();
      while ((await cli("ping")) !== "PONG") await sleep(20);
      assert.equal(await cli("set", "a", "1"), "OK");
      assert.equal(await cli("config", "get", "maxmemory"), "maxmemory\n104857600");
      assert.match(await cli("debug", "digest"), /^[0-9a-f]{40}$/);
      assert.equal(await cli("config", "get", "save"), "save");
    });
  });
}

describe("a workload is well in a container, also after that was frozen", { concurrency: 3 }, () => {
  for (const name of workloadNames()) {
    test(name, async (t) => {
      const host = lab.host("plain");
      const id = await start(t, host, "dmigrate/workloads", name);
      assert.match(await host.run("docker", "exec", id, "check"), /^OK /);
      // runc tries to freeze for some milliseconds, and gives up on processes that fork on a busy machine.
      await until("the engine to pause it", async () => (await host.exec("docker", "pause", id)).code === 0);
      await host.run("docker", "unpause", id);
      assert.match(await host.run("docker", "exec", id, "check"), /^OK /);
    });
  }
});

test("the journal on a volume is continued by the next container", async (t) => {
  const host = lab.host("plain");
  const run = ["--volume", "records:/data", "dmigrate/workloads", "journal"];
  const first = await start(t, host, ...run);
  await host.run("docker", "exec", first, "check");
  await host.run("docker", "kill", first);
  const second = await start(t, host, ...run);
  await host.run("docker", "exec", second, "check");
  const records = (await host.run("docker", "exec", second, "cat", "/data/journal")).trim().split("\n");
  assert.deepEqual(
    records.map((line) => Number(line.split(" ")[0])),
    [...records.keys()],
  );
});

test("the counter's log has no gap", async (t) => {
  const host = lab.host("plain");
  const id = await start(t, host, "dmigrate/workloads", "counter");
  await host.run("docker", "exec", id, "check", "--rounds", "20");
  const lines = (await host.run("docker", "logs", id)).trim().split("\n");
  assert.ok(lines.length >= 20);
  assert.deepEqual(lines.map(Number), [...lines.keys()]);
});
