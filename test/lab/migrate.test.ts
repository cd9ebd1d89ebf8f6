/**
 * A running redis moves there and back, and its client notices nothing but a pause.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { redisImage } from "../../lab/images/catalogue.ts";
import type { Lab } from "../../lab/lab.ts";
import { MODES } from "../../src/core/migration.ts";
import { assertClean, assertRuns, assertUnnoticed, labOfTwo, migrateByCommand, runContainer, startRedisClient } from "../support/lab.ts";

const ADDRESS = "10.77.0.200";
let lab: Lab;

before(async () => {
  lab = await labOfTwo("tmig");
  await runContainer(lab.host("a"), "redis", redisImage, "--ip", ADDRESS, "--restart", "always", "--label", "purpose=test");
});
after(() => lab.down());

test("a redis under load moves there and back over one connection, with nothing lost and nothing done twice", async () => {
  const [a, b] = [lab.host("a"), lab.host("b")];
  const client = startRedisClient(lab, ADDRESS);
  await client.ready();
  for (const [source, target] of [
    [a, b],
    [b, a],
    [a, b],
  ] as const) {
    const result = await migrateByCommand(source, "redis", target.name);
    assert.deepEqual([result.code, result.outcome], [0, "completed"], result.message);
    await assertRuns(target, "redis");
    await assertClean(source, "redis");
  }
  await assertUnnoticed(client);
});

test("on the target it is an ordinary container: exec, logs from its start, labels, policy, restart", async () => {
  const b = lab.host("b");
  assert.equal((await b.run("docker", "exec", "redis", "redis-cli", "ping")).trim(), "PONG");
  assert.match(await b.run("docker", "logs", "redis"), /Ready to accept connections/);
  const format = "{{.Config.Labels.purpose}} {{.HostConfig.RestartPolicy.Name}} {{.NetworkSettings.Networks.lan.IPAddress}}";
  assert.equal((await b.run("docker", "inspect", "--format", format, "redis")).trim(), `test always ${ADDRESS}`);
  await b.run("docker", "restart", "redis");
  await assertRuns(b, "redis");
});

test("a report has every field of its contract, with numbers that add up", async () => {
  const { report } = await migrateByCommand(lab.host("b"), "redis", "a", "--mode", "post-copy");
  assert.ok(report !== undefined);
  const { memory, files, layers, metadata, total, late } = report.bytes;
  assert.equal(total, (memory ?? NaN) + (files ?? NaN) + (layers ?? NaN) + (metadata ?? NaN));
  assert.ok((memory ?? 0) > 0 && (metadata ?? 0) > 0);
  assert.ok((late ?? 0) > 0 && (late ?? 0) <= (memory ?? 0));
  assert.deepEqual(report.rounds, []);
  assert.deepEqual(Object.keys(report.pages).toSorted(), ["copiedAhead", "demanded", "pushed", "total", "waits", "zero"]);
  const { total: all, copiedAhead, demanded, pushed, zero } = report.pages;
  assert.ok(copiedAhead === 0 && pushed > 0 && copiedAhead + demanded + pushed + zero === all);
  assert.deepEqual(
    report.phases.map(({ name }) => name),
    ["preflight", "reserve", "copy", "stage", "freeze", "handover", "post-copy", "finish"],
  );
  for (const { atMs, cpuCores, workers, chunkPages, connections } of report.plans) {
    assert.ok(atMs > 0 && atMs < report.totalMs && cpuCores > 0);
    assert.ok(workers >= 1 && chunkPages >= 16 && connections >= 2);
  }
  assert.ok(report.plans.length > 0, "no plan was made");
  assert.ok(report.downtimeMs > 0 && report.downtimeMs < report.totalMs);
  assert.deepEqual(Object.keys(report.prediction?.modes ?? {}).toSorted(), MODES.toSorted());
});
