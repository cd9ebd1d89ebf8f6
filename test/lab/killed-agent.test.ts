/**
 * An agent is killed before the handover, and nobody starts another one at first: the container runs on, and what is left goes with the
 * next agent.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { askAgent, DMIGRATE, startAgent } from "../../lab/cluster.ts";
import { until, type Host } from "../../lab/host.ts";
import { CLIENT } from "../../lab/lab.ts";
import { CHECKOUT_IN_HOST } from "../../lab/paths.ts";
import { newMigrationId } from "../../src/core/ids.ts";
import { hasEnded } from "../../src/core/journal-states.ts";
import { killAgent, migrate, newestMigration } from "../support/lab.ts";
import { ADDRESS, Ordeal } from "../support/ordeal.ts";

let ordeal: Ordeal;
let a: Host;
let b: Host;

before(async () => {
  ordeal = await Ordeal.begin("tkilled");
  ({ a, b } = ordeal);
});
after(() => ordeal.lab.down());

/** Waits until the container runs on although nobody has started another agent. */
async function runsOnWithoutAgent(): Promise<void> {
  const ping = ["timeout", "5", "docker", "exec", "redis", "redis-cli", "ping"] as const;
  await until("the container to run on", async () => (await a.exec(...ping)).stdout.trim() === "PONG");
  const policy = ["docker", "inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", "redis"] as const;
  await until("its restart policy to be back", async () => (await a.run(...policy)).trim() === "always");
}

/** Starts another agent, and looks for what is left. */
async function assertRecovered(): Promise<void> {
  await startAgent(a);
  await until("the recovery to end", async () => hasEnded((await newestMigration(a)).state));
  await ordeal.cleaned(b);
  await ordeal.assertUndone();
}

test("the source's agent is killed in the freeze: the container runs on without it", async () => {
  await migrate(a, "redis", "b", { freeze: () => killAgent(a) }).catch(() => {}); // its command loses the agent
  await runsOnWithoutAgent();
  await assertRecovered();
  const { id } = await newestMigration(a);
  const { outcome, phases, bytes } = await askAgent(a, (agent) => agent.report(id));
  assert.equal(outcome, "rolled-back");
  const begun = phases.map(({ name }) => name).slice(0, 5); // the handover may have begun before the signal came
  assert.deepEqual(begun, ["preflight", "reserve", "copy", "stage", "freeze"]);
  assert.ok(bytes.files > 0, "what it told before is in its report");
});

test("the source's agent is killed while the target restores: the container runs on without it", async () => {
  await ordeal.whileRestoring(() => killAgent(a)).catch(() => {});
  await runsOnWithoutAgent();
  await assertRecovered();
});

test("the source's agent is killed while the container stands still for a moment of its copy: it runs on without it", async () => {
  await killAgent(a);
  const id = newMigrationId(1n);
  const containerId = (await a.run("docker", "inspect", "--format", "{{.Id}}", "redis")).trim();
  const entry = { id, role: "source", container: "redis", containerId, peer: "b", detail: { heldPid: Number(ordeal.initPid) } };
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
  await ordeal.whileRestoring(() => killAgent(a)).catch(() => {});
  await runsOnWithoutAgent();
  await a.run("docker", "update", "--restart", "no", "redis");
  await a.run("docker", "pause", "redis");
  await startAgent(a);
  await until("the recovery to end", async () => hasEnded((await newestMigration(a)).state));
  assert.equal(
    (await ordeal.lab.host(CLIENT).exec("timeout", "2", "redis-cli", "-h", ADDRESS, "ping")).stdout,
    "",
    "it is not paused any more",
  );
  const format = "{{.State.Paused}} {{.HostConfig.RestartPolicy.Name}}";
  assert.equal((await a.run("docker", "inspect", "--format", format, "redis")).trim(), "true no");
  await a.run("docker", "unpause", "redis");
  await a.run("docker", "update", "--restart", "always", "redis");
  await ordeal.cleaned(b);
  await ordeal.assertUndone();
});

test("the target's agent is killed while it restores: its Docker is not kept waiting", async () => {
  const result = await ordeal.whileRestoring(() => killAgent(b));
  assert.equal(result.outcome, "rolled-back", result.message);
  await b.run("timeout", "20", "docker", "inspect", "redis");
  await startAgent(b);
  await ordeal.cleaned(b);
  await ordeal.assertUndone();
});

test("after all that it migrates, and its client never noticed more than pauses", () => ordeal.assertMigrates());
