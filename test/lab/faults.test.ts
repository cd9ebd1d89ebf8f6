/**
 * Whatever breaks before the handover, the source runs on as if nothing had happened and the target is clean: each fault is made in a real
 * migration, under one client that notices everything, and then the same container migrates.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { startAgent } from "../../lab/cluster.ts";
import { until, type Host } from "../../lab/host.ts";
import { busyboxImage } from "../../lab/images/catalogue.ts";
import { LAN } from "../../lab/lab.ts";
import { AGENT, assertRuns, beforeRestores, killAgent, migrate, provideImage } from "../support/lab.ts";
import { Ordeal, VOLUME_MEGABYTES } from "../support/ordeal.ts";

let ordeal: Ordeal;
let a: Host;
let b: Host;

before(async () => {
  ordeal = await Ordeal.begin("tfault");
  ({ a, b } = ordeal);
});
after(() => ordeal.lab.down());

for (const phase of ["copy", "stage", "freeze"]) {
  test(`the target's agent is killed as the phase ${phase} begins`, async () => {
    const result = await migrate(a, "redis", "b", { [phase]: () => killAgent(b) });
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

test("after all that it migrates, and its client never noticed more than pauses", () => ordeal.assertMigrates());
