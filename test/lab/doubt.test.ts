/**
 * The hosts lose each other within the handover: the source has committed and the target does not answer. Nobody runs the container
 * until it is known whose it is; then it runs on there, as if nothing had happened, and keeps its clients.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { askAgent, DMIGRATE, startAgent } from "../../lab/cluster.ts";
import { until, type Host } from "../../lab/host.ts";
import type { Lab } from "../../lab/lab.ts";
import { DmigrateError } from "../../src/core/errors.ts";
import type { MigrationId } from "../../src/core/ids.ts";
import { Engine } from "../../src/docker/engine.ts";
import type { ClientProcess } from "../../lab/workloads/client-control.ts";
import type { RedisClientResult } from "../../lab/workloads/client-result.ts";
import {
  assertClean,
  assertRuns,
  assertRunsOn,
  assertUnnoticed,
  labOfTwo,
  migrate,
  newestMigration,
  watchedRedis,
  whileRestoring,
} from "../support/lab.ts";

const ADDRESS = "10.77.0.204";
let lab: Lab;
let a: Host;
let b: Host;
let client: ClientProcess<RedisClientResult>;
let initPid: string;

before(async () => {
  lab = await labOfTwo("tdoubt");
  [a, b] = [lab.host("a"), lab.host("b")];
  ({ initPid, client } = await watchedRedis(lab, a, ADDRESS));
});
after(() => lab.down());

/** What the source sends to the target is lost from now on, all of it or what comes from a port; or it also notices so at once. */
async function mute(verdict: "DROP" | "REJECT", port?: string): Promise<void> {
  const rule = ["--out-interface", "eth0", "--protocol", "tcp", ...(port === undefined ? [] : ["--sport", port]), "--jump", verdict];
  await a.run("iptables", "--insert", "OUTPUT", ...rule, ...(verdict === "REJECT" ? ["--reject-with", "tcp-reset"] : []));
}

async function unmute(): Promise<void> {
  await a.run("iptables", "--flush", "OUTPUT");
}

async function stateOf(host: Host): Promise<string> {
  return (await newestMigration(host)).state;
}

/** The target loses its agent, and thereby what it restored; returns once the next one has cleaned up. */
async function restartTarget(): Promise<void> {
  await restartAgent(b);
  await until("the target to clean up", async () => (await stateOf(b)) === "rolled-back");
}

async function restartAgent(host: Host): Promise<void> {
  await host.run("pkill", "-KILL", "-f", "dmigrate.ts agent");
  await startAgent(host);
}

/** Holds a restore when only its agent has not been told: in the last thing that CRIU's action script does (src/shim/dmigrate-hold). */
const holdLast = (gate: string): string =>
  "for hold in /run/dmigrate/expected/*/hold; do [ ! -e $hold.real ] || continue; mv $hold $hold.real; printf '%s\\n' '#!/bin/sh' " +
  `'[ "$CRTOOLS_SCRIPT_ACTION" != post-resume ] || while [ -e ${gate} ]; do sleep 0.02; done' ` +
  `'exec "$0.real"' > $hold; chmod 755 $hold; done`;

/** Migrates, and has something happen once the source has committed and can't ask the target any more to take over. */
async function migrateMute(fault: (id: MigrationId) => Promise<unknown>): ReturnType<typeof migrate> {
  const calls = await callsPort();
  const act = async (id: MigrationId, release: () => Promise<unknown>): Promise<void> => {
    await untilSent(calls);
    await mute("DROP", calls);
    await release(); // the source needs the answer that the target has restored
    await until("the source to commit", async () => (await stateOf(a)) === "committed");
    await fault(id);
  };
  return await whileRestoring(a, b, act, holdLast);
}

/** The port from which the source calls the target. */
async function callsPort(): Promise<string> {
  await a.run(DMIGRATE, "check", "redis", "b"); // leaves it open
  const connections = await a.run("ss", "--no-header", "--tcp", "--numeric", "state", "established", "dport", "=", ":7461");
  const [, port] = /^\d+\s+\d+\s+\S+:(\d+)\s/.exec(connections) ?? [];
  assert.ok(port !== undefined && connections.trim().split("\n").length === 1, connections);
  return port;
}

/** Returns once the question with which the handover begins has left the port and arrived: it may have done so before anybody looked. */
async function untilSent(port: string): Promise<void> {
  const beganAt = performance.now();
  for (let sinceMs = 0; sinceMs < 1_000; sinceMs = performance.now() - beganAt) {
    const info = await a.run("ss", "--no-header", "--tcp", "--numeric", "--info", "sport", "=", `:${port}`);
    const [, queuedBytes, sentAgoMs] = /^\S+\s+\d+\s+(\d+)[^]* lastsnd:(\d+)/.exec(info) ?? [];
    if (queuedBytes === "0" && Number(sentAgoMs) < sinceMs + 100) return;
  }
}

/** Returns once the source has noticed that it doesn't know who runs the container. */
async function doubted(id: MigrationId): Promise<void> {
  await until("the source to doubt", async () => {
    const { code, message } = await askAgent(a, (agent) => agent.cancel(id, { takeBack: false })).then(
      () => assert.fail("cancelled"),
      (error: unknown) => DmigrateError.from(error),
    );
    return code === "CANCEL_TOO_LATE" && /b does not say whether it took redis over .*--take-back/.test(message);
  });
}

/** The source runs the container it ran before, with its policy, and the target is clean. */
async function assertUndone(): Promise<void> {
  await assertRunsOn(a, initPid);
  await assertClean(b, "redis");
}

test("the target has rolled back meanwhile: the source hears of it and runs on", async () => {
  const result = await migrateMute(async (id) => {
    await mute("REJECT");
    await doubted(id);
    await restartTarget();
    await unmute();
  });
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "PEER_UNREACHABLE"], result.message);
  assert.match(result.report?.warnings.join("\n") ?? "", /redis over .*: it stays frozen here.*cancel \w+ --take-back/);
  await assertUndone();
});

test("a source whose agent ends in doubt asks on with its next one", async () => {
  await migrateMute(async (id) => {
    await mute("DROP");
    await doubted(id);
    await restartAgent(a); // its call is on the way still, and may arrive yet
    await doubted(id);
    assert.equal(await stateOf(a), "committed");
    await unmute();
  }).catch(() => {}); // its command loses the agent
  await until("the source to know", async () => (await stateOf(a)) === "rolled-back");
  await until("the target to clean up", async () => (await stateOf(b)) === "rolled-back");
  await assertUndone();
});

test("a target that is lost for good: the source takes the container back when it is told so", async () => {
  const result = await migrateMute(async (id) => {
    await mute("REJECT");
    await doubted(id);
    await a.run(DMIGRATE, "cancel", id, "--take-back");
    await assertRuns(a, "redis");
    await restartTarget();
    await unmute();
  });
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "PEER_UNREACHABLE"], result.message);
  await assertUndone();
});

test("the target can be asked in time: it takes over, and the client never noticed more than pauses", async () => {
  const result = await migrateMute(unmute);
  assert.equal(result.outcome, "completed", result.message);
  await assertRuns(b, "redis");
  await assertClean(a, "redis");
  await assertUnnoticed(client);
});

test("a target whose agent is told to end while it restores takes over first", async () => {
  const result = await whileRestoring(b, a, () => a.run("pkill", "-TERM", "-f", "dmigrate.ts agent"));
  assert.equal(result.outcome, "completed", result.message);
  await until("the agent to end", async () => (await a.exec("pgrep", "-f", "dmigrate.ts agent")).code === 1);
  await assertRuns(a, "redis");
  await startAgent(a);
  await assertClean(b, "redis");
});

test("who stops the container in the freeze does not find it on the target", async () => {
  const engine = await Engine.connect(a.dockerSocket);
  let stopped: Promise<unknown> | undefined; // ends with the freeze
  const result = await whileRestoring(a, b, async () => {
    const sinceMs = Date.now();
    stopped = a.run("docker", "stop", "--time", "0", "redis");
    await until("the engine to be asked", async () => (await engine.requestsSince("redis", sinceMs)).some(({ kind }) => kind === "signal"));
  });
  await stopped;
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "CONTAINER_NOT_RUNNING"], result.message);
  assert.equal((await a.run("docker", "inspect", "--format", "{{.State.Running}}", "redis")).trim(), "false");
  await assertClean(b, "redis");
});

test("a container whose Docker is killed in the freeze is started again by the next one, as its restart policy says", async () => {
  await a.run("docker", "start", "redis");
  const result = await whileRestoring(a, b, async (_, release) => {
    await a.run("pkill", "-KILL", "-x", "dockerd");
    await release(); // an engine that starts waits for what is frozen
    await a.run("rm", "-f", "/run/docker.sock", "/run/docker.pid");
    await a.startDocker();
  });
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "CONTAINER_NOT_RUNNING"], result.message);
  assert.match(String(result.report?.warnings), /redis ended with its Docker Engine, and was started again/);
  await assertRuns(a, "redis");
  assert.equal((await a.run("docker", "inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", "redis")).trim(), "always");
  await assertClean(b, "redis");
});

test("a container whose Docker stays away longer than the report gets its policy back, and is started again, once it comes", async () => {
  const result = await whileRestoring(a, b, async () => {
    await a.run("pkill", "-KILL", "-x", "dockerd");
  });
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "CONTAINER_NOT_RUNNING"], result.message);
  assert.match(String(result.report?.warnings), /redis lacks its restart policy.*once Docker is back it gets it/);
  await a.run("rm", "-f", "/run/docker.sock", "/run/docker.pid");
  await a.startDocker();
  const policy = ["docker", "inspect", "--format", "{{.HostConfig.RestartPolicy.Name}} {{.State.Running}}", "redis"] as const;
  await until("redis to run under its policy", async () => (await a.run(...policy)).trim() === "always true");
  await assertClean(b, "redis");
});
