/**
 * What users do to a container that is on its way, on either host: it moves as it is to be, or it stays as they left it, and they are told.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { request, type RequestOptions } from "node:http";
import { after, before, test } from "node:test";
import { DMIGRATE } from "../../lab/cluster.ts";
import { until, type Host } from "../../lab/host.ts";
import { LAN } from "../../lab/lab.ts";
import type { MigrationId } from "../../src/core/ids.ts";
import { migrate, type MigrateResult } from "../support/lab.ts";
import { Ordeal } from "../support/ordeal.ts";

let ordeal: Ordeal;
let a: Host;
let b: Host;

before(async () => {
  ordeal = await Ordeal.begin("tuser");
  ({ a, b } = ordeal);
});
after(() => ordeal.lab.down());

type Act = (id: MigrationId) => Promise<unknown>;

/** Does something while what the source sends takes its time. */
async function slowly<T>(work: () => Promise<T>): Promise<T> {
  await a.run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "20mbit", "burst", "64kb", "latency", "50ms");
  try {
    return await work();
  } finally {
    await a.run("tc", "qdisc", "delete", "dev", "eth0", "root");
  }
}

/** Migrates, and has something happen while the first copy takes its time. */
function whileCopying(copy: Act): Promise<MigrateResult> {
  return slowly(() => migrate(a, "redis", "b", { copy }));
}

test("who starts the container on the target while it is on its way is refused: it never runs twice, and goes on coming", async () => {
  let refusal = "";
  const copy = (): Promise<void> =>
    until("the container to exist on b", async () => {
      refusal = (await b.exec("docker", "start", "redis")).stderr;
      return !/No such container/.test(refusal);
    });
  const result = await slowly(() => ordeal.whileRestoring((id) => a.run(DMIGRATE, "cancel", id), { copy }));
  assert.match(refusal, /this container is moving to this host: it runs here when its migration says so/);
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "CANCELLED"], result.message);
  await ordeal.assertUndone();
});

/** Asks the engine of the target; returns when it has read that. What it answers comes when it has done it. */
async function ask(method: string, path: string): Promise<{ readonly answered: Promise<unknown> }> {
  const send = async (what: RequestOptions): Promise<{ readonly answered: Promise<unknown> }> => {
    const asked = request({ socketPath: `${b.root}/run/docker.sock`, ...what });
    const answered = new Promise((resolve, reject) => {
      asked.on("response", (response) => resolve(response.resume())).on("error", reject);
    });
    asked.end();
    await once(asked, "finish");
    return { answered };
  };
  const first = await send({ method, path });
  await (
    await send({ path: "/_ping" })
  ).answered; // what was asked later is answered
  return first;
}

for (const [command, method, path] of [
  ["rm", "DELETE", "/containers/redis?force=1"],
  ["stop", "POST", "/containers/redis/stop?t=0"],
] as const) {
  test(`who asks the target for \`docker ${command}\` while it is being started there does not get the one that runs`, async () => {
    let asked: { readonly answered: Promise<unknown> } | undefined; // the engine waits for the end of its start
    const result = await ordeal.whileRestoring(async () => (asked = await ask(method, path)));
    await asked?.answered;
    assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "CONTAINER_CHANGED"], result.message);
    assert.match(result.message, /redis was (stopped or )?removed on the target/);
    await ordeal.cleaned(b);
    await ordeal.assertUndone();
  });
}

test("who removes the container on the target while it is on its way finds it on the source, and is told why it did not come", async () => {
  const isRemoved = async (): Promise<boolean> => (await b.exec("docker", "rm", "redis")).code === 0;
  const result = await whileCopying(() => until("the container to exist on b", isRemoved));
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "CONTAINER_CHANGED"], result.message);
  assert.match(result.message, /redis was removed on the target/);
  await ordeal.assertUndone();
});

for (const [name, ...command] of [
  ["disconnects", "network", "disconnect", LAN, "redis"],
  ["updates", "update", "--memory", "900m", "--memory-swap", "900m", "redis"],
  ["renames", "rename", "redis", "sider"],
]) {
  test(`who ${name} the container on the target while it is on its way is told that it did not come so`, async () => {
    const isDone = async (): Promise<boolean> => (await b.exec("docker", ...command)).code === 0;
    const result = await whileCopying(() => until("the container to exist on b", isDone));
    assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "CONTAINER_CHANGED"], result.message);
    assert.match(result.message, /redis was paused or changed on the target/);
    assert.ok(!result.report?.phases.some((phase) => phase.name === "freeze"), "it stood still for that");
    await ordeal.assertUndone();
  });
}

test("a container that is renamed while it is frozen does not move under its old name", async () => {
  const result = await ordeal.whileRestoring(() => a.run("docker", "rename", "redis", "sider"));
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "CONTAINER_CHANGED"], result.message);
  assert.match(result.message, /redis was changed .* while it was frozen; migrate again/);
  await a.run("docker", "rename", "sider", "redis");
  await ordeal.assertUndone();
});

test("a container that is changed while it is copied does not move as it was before", async () => {
  const result = await whileCopying(() => a.run("docker", "update", "--restart", "no", "redis"));
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "CONTAINER_CHANGED"], result.message);
  assert.match(result.message, /redis was changed .* while its migration copied; migrate again/);
  await a.run("docker", "update", "--restart", "always", "redis");
  await ordeal.assertUndone();
});

test("a container whose process was stopped since the preflight does not hang CRIU: it stays", async () => {
  const result = await migrate(a, "redis", "b", { stage: () => a.run("pkill", "-STOP", "-x", "redis-server") });
  await a.run("pkill", "-CONT", "-x", "redis-server");
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "DUMP_FAILED"], result.message);
  assert.match(result.message, /has been stopped or is traced.*`kill -CONT \d+`/);
  await ordeal.assertUndone();
});

for (const [what, ...command] of [
  ["files are put into it", "cp", "/etc/hostname", "redis:/data/put"],
  ["its restart policy is changed", "update", "--restart", "on-failure:3", "redis"],
]) {
  test(`${what} while it is frozen: it stays, with that`, async () => {
    const result = await ordeal.whileRestoring(() => a.run("docker", ...command));
    assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "CONTAINER_CHANGED"], result.message);
    assert.match(result.message, /redis was changed .* while it was frozen; migrate again/);
    assert.equal((await a.exec("docker", "exec", "redis", "test", "-e", "/data/put")).code, 0);
    const policy = await a.run("docker", "inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", "redis");
    assert.equal(policy.trim(), command[0] === "update" ? "on-failure" : "always");
    await a.run("docker", "update", "--restart", "always", "redis");
    await ordeal.assertUndone();
  });
}

test("a migration is cancelled while it copies", async () => {
  const result = await whileCopying((id) => a.run(DMIGRATE, "cancel", id));
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "CANCELLED"], result.message);
  await ordeal.assertUndone();
});

test("a migration is cancelled while the target restores", async () => {
  const result = await ordeal.whileRestoring((id) => a.run(DMIGRATE, "cancel", id));
  assert.deepEqual([result.outcome, result.errorCode, result.report?.warnings], ["rolled-back", "CANCELLED", []], result.message);
  await ordeal.assertUndone();
});

test("who pauses the container as the freeze begins is refused by the engine, or it stays, paused", async () => {
  let pause: ReturnType<Host["exec"]> | undefined;
  const result = await migrate(a, "redis", "b", { freeze: async () => void (pause = a.exec("docker", "pause", "redis")) });
  if ((await pause)?.code === 0) {
    assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "CONTAINER_CHANGED"], result.message);
    assert.equal((await a.run("docker", "inspect", "--format", "{{.State.Status}}", "redis")).trim(), "paused");
    await a.run("docker", "unpause", "redis");
    await ordeal.assertUndone();
  } else {
    assert.equal(result.outcome, "completed", result.message);
    assert.equal((await migrate(b, "redis", "a")).outcome, "completed");
  }
});

test("after all that it migrates, and its client never noticed more than pauses", () => ordeal.assertMigrates());
