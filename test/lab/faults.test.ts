/**
 * Whatever breaks before the handover, the source runs on as if nothing had happened and the target is clean: each fault is made in a real
 * migration, under one client that notices everything, and then the same container migrates.
 */
import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { after, before, test } from "node:test";
import { askAgent, DMIGRATE, startAgent } from "../../lab/cluster.ts";
import { until, type Host } from "../../lab/host.ts";
import { busyboxImage } from "../../lab/images/catalogue.ts";
import { CLIENT, LAN, type Lab } from "../../lab/lab.ts";
import { CHECKOUT_IN_HOST } from "../../lab/paths.ts";
import { newMigrationId } from "../../src/core/ids.ts";
import { hasEnded } from "../../src/core/journal-states.ts";
import type { ClientProcess } from "../../lab/workloads/client-control.ts";
import type { RedisClientResult } from "../../lab/workloads/client-result.ts";
import {
  assertClean,
  assertRuns,
  assertRunsOn,
  assertUnnoticed,
  beforeRestores,
  labOfTwo,
  migrate,
  newestMigration,
  provideImage,
  watchedRedis,
  type MigrateResult,
} from "../support/lab.ts";

const ADDRESS = "10.77.0.201";
const VOLUME_MEGABYTES = 48;
let lab: Lab;
let a: Host;
let b: Host;
let client: ClientProcess<RedisClientResult>;
let initPid: string;

before(async () => {
  lab = await labOfTwo("tfault");
  [a, b] = [lab.host("a"), lab.host("b")];
  ({ initPid, client } = await watchedRedis(lab, a, ADDRESS, "--volume", "data:/data"));
  await a.run("docker", "exec", "redis", "dd", "if=/dev/urandom", "of=/data/blob", "bs=1M", `count=${VOLUME_MEGABYTES}`);
});
after(() => lab.down());

/** The source runs the container it ran before, under its own restart policy; nothing of the attempt is left anywhere. */
async function assertUndone(): Promise<void> {
  await assertRunsOn(a, initPid);
  await assertClean(b, "redis");
  assert.equal(await b.run("docker", "image", "ls", "--quiet"), "");
  assert.equal(await b.run("docker", "volume", "ls", "--quiet"), "");
  assert.deepEqual(await readdir(`${a.root}/run/dmigrate/migrations`).catch(() => []), []);
}

/** How an agent is found among processes. */
const AGENT = "dmigrate.ts agent";

async function killAgent(host: Host): Promise<void> {
  await host.run("pkill", "-KILL", "-f", AGENT);
}

/** Waits for what the other side finds out by itself. */
async function cleaned(host: Host): Promise<void> {
  await until(`host ${host.name} to clean up`, 120_000, async () => {
    const containers = await host.run("docker", "ps", "--all", "--quiet");
    return containers === "" && hasEnded((await newestMigration(host)).state);
  });
}

for (const phase of ["copy", "stage", "freeze"]) {
  test(`the target's agent is killed as the phase ${phase} begins`, async () => {
    const result = await migrate(a, "redis", "b", { [phase]: () => killAgent(b) });
    assert.equal(result.outcome, "rolled-back", result.message);
    assert.notEqual(result.code, 0);
    await startAgent(b);
    await cleaned(b);
    await assertUndone();
  });
}

test("the target's agent is told to end as the freeze begins: it cleans up first, and says why", async () => {
  const result = await migrate(a, "redis", "b", { freeze: () => b.run("pkill", "-TERM", "-f", AGENT) });
  await until("the agent to end", 60_000, async () => (await b.exec("pgrep", "-f", AGENT)).code !== 0);
  const left = await b.run("docker", "ps", "--all", "--quiet");
  await startAgent(b);
  assert.deepEqual([result.outcome, result.errorCode, left], ["rolled-back", "AGENT", ""], result.message);
  assert.match(result.message, /^On b: The agent was told to end|^The agent of b ended/);
  await assertUndone();
});

for (const phase of ["copy", "freeze"]) {
  test(`the target's Docker is killed as the phase ${phase} begins: what it holds goes once it is back`, async () => {
    const result = await migrate(a, "redis", "b", { [phase]: () => b.run("pkill", "-KILL", "-x", "dockerd") });
    assert.equal(result.outcome, "rolled-back", result.message);
    assert.match(result.message, /Docker Engine/);
    await b.run("rm", "-f", "/run/docker.sock", "/run/docker.pid");
    await b.startDocker();
    await cleaned(b);
    await assertUndone();
  });
}

test("the target's Docker is told to end as it restores: it must not get what it would end", async () => {
  const result = await migrate(a, "redis", "b", { handover: () => b.run("pkill", "-TERM", "-x", "dockerd") });
  assert.equal(result.outcome, "rolled-back", result.message);
  assert.match(result.message, /Docker Engine/);
  await until("the engine to end", 60_000, async () => (await b.exec("pgrep", "-x", "dockerd")).code !== 0);
  await b.startDocker();
  await cleaned(b);
  await assertUndone();
});

test("the restore fails: CRIU on the target breaks after the preflight", async () => {
  const repair = await beforeRestores(b, "exit 1");
  const result = await migrate(a, "redis", "b");
  await repair();
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "RESTORE_FAILED"], result.message);
  assert.match(result.message, /runc|criu/, "it is told what ended, not that a limit passed");
  await assertUndone();
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
  await assertUndone();
});

test("the target's disk is full", async () => {
  await b.run("mount", "-t", "tmpfs", "-o", `size=${VOLUME_MEGABYTES / 2}m`, "tmpfs", "/var/lib/docker/volumes");
  const result = await migrate(a, "redis", "b");
  await b.run("umount", "/var/lib/docker/volumes");
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "NO_SPACE"], result.message);
  await assertUndone();
});

for (const phase of ["copy", "freeze"]) {
  test(`the link is cut as the phase ${phase} begins`, async () => {
    const result = await migrate(a, "redis", "b", { [phase]: () => lab.segment.setLink("b", "down") });
    await lab.segment.setLink("b", "up");
    assert.equal(result.outcome, "rolled-back", result.message);
    await cleaned(b);
    await assertUndone();
  });
}

test("a migration is cancelled while it copies", async () => {
  const shaped = ["dev", "eth0", "root", "tbf", "rate", "20mbit", "burst", "32kb", "latency", "50ms"]; // it copies long enough
  await a.run("tc", "qdisc", "add", ...shaped);
  const result = await migrate(a, "redis", "b", {
    copy: (id) => a.run(DMIGRATE, "cancel", id),
  });
  await a.run("tc", "qdisc", "delete", "dev", "eth0", "root");
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "CANCELLED"], result.message);
  await assertUndone();
});

test("a container that is changed while it is copied does not move as it was before", async () => {
  const shaped = ["dev", "eth0", "root", "tbf", "rate", "100mbit", "burst", "64kb", "latency", "50ms"];
  await a.run("tc", "qdisc", "add", ...shaped);
  const result = await migrate(a, "redis", "b", { copy: () => a.run("docker", "update", "--restart", "no", "redis") });
  await a.run("tc", "qdisc", "delete", "dev", "eth0", "root");
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "PREFLIGHT_BLOCKED"], result.message);
  assert.match(result.message, /redis was changed .* while its migration copied; migrate again/);
  await a.run("docker", "update", "--restart", "always", "redis");
  await assertUndone();
});

/** Has the target's restore take its time, and something happen meanwhile. */
async function whileRestoring(fault: (id: string) => Promise<unknown>): Promise<MigrateResult> {
  const repair = await beforeRestores(b, "sleep 3");
  const result = await migrate(a, "redis", "b", { handover: fault });
  await repair();
  return result;
}

test("a migration is cancelled while the target restores", async () => {
  const result = await whileRestoring((id) => a.run(DMIGRATE, "cancel", id));
  assert.deepEqual([result.outcome, result.errorCode, result.report?.warnings], ["rolled-back", "CANCELLED", []], result.message);
  await assertUndone();
});

test("the target's agent is killed while it restores: its Docker is not kept waiting", async () => {
  const result = await whileRestoring(() => killAgent(b));
  assert.equal(result.outcome, "rolled-back", result.message);
  await b.run("timeout", "20", "docker", "inspect", "redis");
  await startAgent(b);
  await cleaned(b);
  await assertUndone();
});

test("the link is cut while the target restores", async () => {
  const result = await whileRestoring(() => lab.segment.setLink("b", "down"));
  await lab.segment.setLink("b", "up");
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "PEER_UNREACHABLE"], result.message);
  await cleaned(b);
  await assertUndone();
});

/** Waits until the container runs on although nobody has started another agent. */
async function runsOnWithoutAgent(): Promise<void> {
  const ping = ["timeout", "5", "docker", "exec", "redis", "redis-cli", "ping"] as const;
  await until("the container to run on", 60_000, async () => (await a.exec(...ping)).stdout.trim() === "PONG");
  const policy = ["docker", "inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", "redis"] as const;
  await until("its restart policy to be back", 60_000, async () => (await a.run(...policy)).trim() === "always");
}

/** Starts another agent, and looks for what is left. */
async function assertRecovered(): Promise<void> {
  await startAgent(a);
  await until("the recovery to end", 60_000, async () => hasEnded((await newestMigration(a)).state));
  await cleaned(b);
  await assertUndone();
}

test("the source's agent is killed in the freeze: the container runs on without it", async () => {
  await migrate(a, "redis", "b", { freeze: () => killAgent(a) }).catch(() => {}); // its command loses the agent
  await runsOnWithoutAgent();
  await assertRecovered();
  const { id } = await newestMigration(a);
  const { outcome, phases, bytes } = await askAgent(a, (agent) => agent.report(id));
  assert.deepEqual([outcome, phases.map(({ name }) => name)], ["rolled-back", ["preflight", "reserve", "copy", "stage", "freeze"]]);
  assert.ok(bytes.files > 0, "what it told before is in its report");
});

test("the source's agent is killed while the target restores: the container runs on without it", async () => {
  await whileRestoring(() => killAgent(a)).catch(() => {});
  await runsOnWithoutAgent();
  await assertRecovered();
});

test("the source's agent is killed while the container stands still for a moment of its copy: it runs on without it", async () => {
  await killAgent(a);
  const id = newMigrationId(1n);
  const containerId = (await a.run("docker", "inspect", "--format", "{{.Id}}", "redis")).trim();
  const entry = { id, role: "source", container: "redis", containerId, peer: "b", detail: { heldPid: Number(initPid) } };
  const script = `
    const { Journal } = await import("${CHECKOUT_IN_HOST}/src/agent/journal.ts");
    Journal.open("/var/lib/dmigrate").begin(${JSON.stringify(entry)});`;
  await a.run(`${CHECKOUT_IN_HOST}/bin/node`, "--input-type=module", "-e", script);
  await a.run("sh", "-c", `echo FROZEN > /sys/fs/cgroup/freezer/docker/${containerId}/freezer.state`);
  await a.run("sh", "-c", `mkdir -p /run/dmigrate/migrations/${id} && touch /run/dmigrate/migrations/${id}/held`);
  await a.run("sh", "-c", `${DMIGRATE} guard ${id} < /dev/null`);
  await runsOnWithoutAgent();
  await assertRecovered();
});

test("what a user does to a container that runs on without its agent is left alone by the next one", async () => {
  await whileRestoring(() => killAgent(a)).catch(() => {});
  await runsOnWithoutAgent();
  await a.run("docker", "update", "--restart", "no", "redis");
  await a.run("docker", "pause", "redis");
  await startAgent(a);
  await until("the recovery to end", 60_000, async () => hasEnded((await newestMigration(a)).state));
  assert.equal((await lab.host(CLIENT).exec("timeout", "2", "redis-cli", "-h", ADDRESS, "ping")).stdout, "", "it is not paused any more");
  const format = "{{.State.Paused}} {{.HostConfig.RestartPolicy.Name}}";
  assert.equal((await a.run("docker", "inspect", "--format", format, "redis")).trim(), "true no");
  await a.run("docker", "unpause", "redis");
  await a.run("docker", "update", "--restart", "always", "redis");
  await cleaned(b);
  await assertUndone();
});

test("after all that it migrates, and its client never noticed more than pauses", async () => {
  const result = await migrate(a, "redis", "b");
  assert.equal(result.outcome, "completed", result.message);
  await assertRuns(b, "redis");
  await assertClean(a, "redis");
  await assertUnnoticed(client);
});
