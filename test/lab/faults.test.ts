/**
 * Whatever breaks before the handover, the source runs on as if nothing had happened and the target is clean: each fault is made in a real
 * migration, under one client that notices everything, and then the same container migrates.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { DMIGRATE, startAgent } from "../../lab/cluster.ts";
import { until, type Host } from "../../lab/host.ts";
import { busyboxImage } from "../../lab/images/catalogue.ts";
import { LAN } from "../../lab/lab.ts";
import type { MigrationId } from "../../src/core/ids.ts";
import { assertRuns, beforeRestores, migrate, provideImage, type MigrateResult } from "../support/lab.ts";
import { AGENT, Ordeal, VOLUME_MEGABYTES } from "../support/ordeal.ts";

let ordeal: Ordeal;
let a: Host;
let b: Host;

before(async () => {
  ordeal = await Ordeal.begin("tfault");
  ({ a, b } = ordeal);
});
after(() => ordeal.lab.down());

type Act = (id: MigrationId) => Promise<unknown>;

/** Migrates, and has something happen while the first copy takes its time, and perhaps as the container is staged. */
async function whileCopying(copy: Act, stage: Act = () => Promise.resolve()): Promise<MigrateResult> {
  await a.run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "100mbit", "burst", "64kb", "latency", "50ms");
  try {
    return await migrate(a, "redis", "b", { copy, stage });
  } finally {
    await a.run("tc", "qdisc", "delete", "dev", "eth0", "root");
  }
}

for (const phase of ["copy", "stage", "freeze"]) {
  test(`the target's agent is killed as the phase ${phase} begins`, async () => {
    const result = await migrate(a, "redis", "b", { [phase]: () => ordeal.killAgent(b) });
    assert.equal(result.outcome, "rolled-back", result.message);
    assert.notEqual(result.code, 0);
    await startAgent(b);
    await ordeal.cleaned(b);
    await ordeal.assertUndone();
  });
}

test("the target's agent is told to end as the freeze begins: it cleans up first, and says why", async () => {
  const result = await migrate(a, "redis", "b", { freeze: () => b.run("pkill", "-TERM", "-f", AGENT) });
  await until("the agent to end", async () => (await b.exec("pgrep", "-f", AGENT)).code !== 0);
  const left = await b.run("docker", "ps", "--all", "--quiet");
  await startAgent(b);
  assert.deepEqual([result.outcome, result.errorCode, left], ["rolled-back", "AGENT", ""], result.message);
  assert.match(result.message, /^On b: The agent was told to end|^The agent of b ended/);
  await ordeal.assertUndone();
});

for (const phase of ["copy", "freeze"]) {
  test(`the target's Docker is killed as the phase ${phase} begins: what it holds goes once it is back`, async () => {
    const result = await migrate(a, "redis", "b", { [phase]: () => b.run("pkill", "-KILL", "-x", "dockerd") });
    assert.equal(result.outcome, "rolled-back", result.message);
    assert.match(result.message, /Docker Engine/);
    await b.run("rm", "-f", "/run/docker.sock", "/run/docker.pid");
    await b.startDocker();
    await ordeal.cleaned(b);
    await ordeal.assertUndone();
  });
}

test("the target's Docker is told to end as it restores: it must not get what it would end", async () => {
  const result = await ordeal.whileRestoring(() => b.run("pkill", "-TERM", "-x", "dockerd"));
  assert.equal(result.outcome, "rolled-back", result.message);
  assert.match(result.message, /Docker Engine/);
  await until("the engine to end", async () => (await b.exec("pgrep", "-x", "dockerd")).code !== 0);
  await b.startDocker();
  await ordeal.cleaned(b);
  await ordeal.assertUndone();
});

test("the restore fails: CRIU on the target breaks after the preflight", async () => {
  const repair = await beforeRestores(b, "exit 1");
  const result = await migrate(a, "redis", "b");
  await repair();
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "RESTORE_FAILED"], result.message);
  assert.match(result.message, /runc|criu/, "it is told what ended, not that a limit passed");
  await ordeal.assertUndone();
});

test("runc is killed on the target as it restores: nothing of what it has made stays", async () => {
  const result = await ordeal.whileRestoring(() => b.run("pkill", "-KILL", "-f", "^runc .* restore "));
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "RESTORE_FAILED"], result.message);
  assert.match(result.message, /runc was killed/);
  await ordeal.assertUndone();
});

test("runc is killed on the source before the dump begins: what it has started does not stay", async () => {
  const killsIt = "! grep -q wait_for_partner /proc/$$/wchan || kill -KILL $PPID"; // as CRIU waits for its configuration
  const repair = await beforeRestores(a, `(while [ -e /proc/$$/exe ]; do ${killsIt}; sleep 0.01; done) 3>&- &`);
  const result = await migrate(a, "redis", "b");
  await repair();
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "DUMP_FAILED"], result.message);
  assert.match(result.message, /runc was killed/);
  await ordeal.assertUndone();
});

test("a sleep that a dump met goes on on the source, when the restore fails", async () => {
  const program = ["sh", "-c", "(sleep 600; echo woke) & (timeout 600 sleep 601; echo woke) & exec sleep 602"];
  const image = await provideImage(a, busyboxImage);
  await a.run("docker", "run", "--detach", "--name", "sleeper", "--network", LAN, image, ...program);
  const each = (line: string): Promise<unknown> =>
    b.run("sh", "-c", `for f in /var/lib/docker/overlay2/*/diff/usr/bin/busybox; do ${line}; done`);
  const result = await migrate(a, "sleeper", "b", { stage: () => each("cp $f $f.away; echo x >> $f") });
  await each("[ ! -e $f.away ] || mv $f.away $f");
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "RESTORE_FAILED"], result.message);
  await assertRuns(a, "sleeper");
  assert.equal(await a.run("docker", "logs", "sleeper"), "");
  await a.run("docker", "rm", "--force", "sleeper");
});

test("the wrong image: a file of the image differs on the target", async () => {
  const result = await migrate(a, "redis", "b", {
    stage: () => b.run("sh", "-c", "for f in /var/lib/docker/overlay2/*/diff/usr/bin/redis-server; do echo x >> $f; done"),
  });
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "RESTORE_FAILED"], result.message);
  await ordeal.assertUndone();
});

test("the target's disk is full", async () => {
  await b.run("mount", "-t", "tmpfs", "-o", `size=${VOLUME_MEGABYTES / 2}m`, "tmpfs", "/var/lib/docker/volumes");
  const result = await migrate(a, "redis", "b");
  await b.run("umount", "/var/lib/docker/volumes");
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "NO_SPACE"], result.message);
  await ordeal.assertUndone();
});

test("a migration is cancelled while it copies", async () => {
  const result = await whileCopying((id) => a.run(DMIGRATE, "cancel", id));
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "CANCELLED"], result.message);
  await ordeal.assertUndone();
});

test("who starts the container on the target while it is on its way is refused: it never runs twice, and goes on coming", async () => {
  let refusal = "";
  const result = await whileCopying(
    () =>
      until("the container to exist on b", async () => {
        refusal = (await b.exec("docker", "start", "redis")).stderr;
        return !/No such container/.test(refusal);
      }),
    (id) => a.run(DMIGRATE, "cancel", id),
  );
  assert.match(refusal, /this container is moving to this host: it runs here when its migration says so/);
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "CANCELLED"], result.message);
  await ordeal.assertUndone();
});

for (const command of [
  ["rm", "--force", "redis"],
  ["stop", "--time", "0", "redis"],
]) {
  test(`who asks the target for \`docker ${command[0]}\` while it is being started there does not get the one that runs`, async () => {
    let asked: Promise<unknown> | undefined; // waits for the engine's start
    const result = await migrate(a, "redis", "b", {
      freeze: async () => {
        asked = b.exec("docker", ...command);
      },
    });
    await asked;
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
