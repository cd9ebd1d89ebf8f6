/**
 * Every workload that checks itself moves to another host, and goes on there as if nothing had happened: all its pages are right, whether
 * our own page handler serves its faults or the stock `criu lazy-pages`, which is the reference.
 */
import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { startAgent } from "../../lab/cluster.ts";
import { workloadNames, workloadsImage } from "../../lab/images/catalogue.ts";
import { agentOf } from "../../lab/cluster.ts";
import { until, type Host } from "../../lab/host.ts";
import { CLIENT, LAN, type Lab } from "../../lab/lab.ts";
import { CHECKOUT_IN_HOST } from "../../lab/paths.ts";
import { ClientProcess } from "../../lab/workloads/client-control.ts";
import { clientResult, type ClientResult } from "../../lab/workloads/client-result.ts";
import type { MigrationId } from "../../src/core/ids.ts";
import type { Mode } from "../../src/core/migration.ts";
import { assertClean, killAgent, labOf, migrate, provideImage, type MigrateResult } from "../support/lab.ts";

const ECHO_ADDRESS = "10.77.0.201";
const LATE_ADDRESS = "10.77.0.202";
/** What the processes of `shared` share and have touched. */
const SHARED_BYTES = 6 << 20;
/** Workloads that do more when asked to. */
const ARGUMENTS: Readonly<Record<string, readonly string[]>> = {
  memory: ["--mb", "16", "--processes", "2"],
  kept: ["--mb", "8", "--pause", "0.05"],
};
/** What `kept` has touched of four kinds of memory. */
const KEPT_BYTES = (4 * (8 << 20) * 7) / 8;
const OPTIONS: Readonly<Record<string, readonly string[]>> = { echo: ["--ip", ECHO_ADDRESS], journal: ["--volume", "journal:/data"] };

let lab: Lab;
/** Tasks get their pages from our own handler on host b, from the stock daemon on host c. */
before(async () => {
  lab = await labOf({ name: "twork", hosts: ["a", "b", "c"] });
  const c = lab.host("c");
  await killAgent(c);
  await startAgent(c, "--page-handler", "criu");
});
after(() => lab.down());

async function start(name: string): Promise<void> {
  const a = lab.host("a");
  const [options = [], args = []] = [OPTIONS[name], ARGUMENTS[name]];
  const image = await provideImage(a, workloadsImage);
  await a.run("docker", "run", "--detach", "--name", name, "--network", LAN, ...options, image, name, ...args);
  await assertWell("a", name);
}

async function assertWell(host: string, container: string): Promise<void> {
  const { code, stdout } = await lab.host(host).exec("docker", "exec", container, "check");
  assert.ok(code === 0 && stdout.startsWith("OK "), `${container} on host ${host}: ${stdout.trim()}`);
}

/** The stock daemon does not say what it gave, so there is nothing to compare but what the workload itself sees. */
async function moveToReference(container: string): Promise<void> {
  const { outcome, message } = await migrate(lab.host("a"), container, "c");
  assert.equal(outcome, "completed", message);
  await assertWell("c", container);
  await assertClean(lab.host("a"), container);
}

/** How often a container has verified all that it verifies. */
async function turnsOf(host: string, container: string): Promise<number> {
  const { stdout } = await lab.host(host).exec("docker", "exec", container, "check");
  assert.match(stdout, /^OK /, `${container} on host ${host}`);
  return Number(/=(\d+)/.exec(stdout)?.[1]);
}

/** How many stores of content a host's agent has. */
async function storesOn(host: Host): Promise<number> {
  const { stdout } = await host.exec("sh", "-c", "ls -l /proc/[0-9]*/fd | grep -c '/memfd:dmigrate content '");
  return Number(stdout);
}

async function move(
  container: string,
  mode: Mode = "post-copy",
  [from, to]: readonly [string, string] = ["a", "b"],
): Promise<MigrateResult> {
  const result = await migrate(lab.host(from), container, to, {}, mode, { verify: true });
  assert.equal(result.outcome, "completed", result.message);
  const { same = NaN, different, released = NaN } = result.report?.verification ?? {};
  assert.deepEqual([different, same + released], [0, result.report?.pages.total]);
  assert.ok(same > 0);
  await assertWell(to, container);
  await assertClean(lab.host(from), container);
  return result;
}

for (const name of workloadNames().filter((each) => !["echo", "counter", "kept", "shared"].includes(each))) {
  test(`${name} goes on`, async () => {
    await start(name);
    await move(name);
    await lab.host("b").run("docker", "rm", "--force", name); // it keeps a processor busy
  });
}

/** With children that end at once the stock daemon does not always come to an end itself (docs/facts.md). */
const NOT_BY_REFERENCE = ["echo", "counter", "forks", "programs"];

for (const name of workloadNames().filter((each) => !NOT_BY_REFERENCE.includes(each))) {
  test(`${name} goes on with pages from the stock daemon`, async () => {
    await start(name);
    await moveToReference(name);
    await lab.host("c").run("docker", "rm", "--force", name);
  });
}

for (const name of ["database", "forks", "mappings", "memory", "programs", "threads"]) {
  test(`${name} goes on when its memory was copied ahead`, async () => {
    await start(name);
    await move(name, "warm");
    await lab.host("b").run("docker", "rm", "--force", name);
  });
}

for (const mode of ["post-copy", "warm"] as const) {
  test(`memory that processes share goes on, and is not dumped in the freeze: ${mode}`, async () => {
    await start("shared");
    const { report } = await move("shared", mode);
    assert.ok((report?.bytes["metadata"] ?? Infinity) < SHARED_BYTES / 2, `${report?.bytes["metadata"]} bytes of images`);
    await lab.host("b").run("docker", "rm", "--force", "shared");
  });
}

test("memory that can't be left for later goes on, there and back, and hardly any of it crosses in the freeze", async () => {
  await start("kept");
  for (const way of [
    ["a", "b"],
    ["b", "a"],
  ] as const) {
    const { report } = await move("kept", "post-copy", way);
    const imageBytes = report?.bytes["metadata"] ?? Infinity;
    assert.ok(imageBytes < KEPT_BYTES / 3, `${imageBytes} bytes of images`);
    const turns = await turnsOf(way[1], "kept");
    await until("it to verify all of its memory", async () => (await turnsOf(way[1], "kept")) > turns + 1);
  }
  await lab.host("a").run("docker", "rm", "--force", "kept");
});

test("a migration that is cancelled while such memory is copied leaves the container and nothing else", async () => {
  await start("kept");
  const [a, b] = [lab.host("a"), lab.host("b")];
  using agent = agentOf(a);
  const cancelled = async (id: MigrationId): Promise<void> => {
    await until("content to arrive", async () => (await storesOn(b)) > 0);
    await agent.cancel(id, { takeBack: false });
  };
  const { errorCode } = await migrate(a, "kept", "b", { copy: cancelled }, "post-copy", { bytesPerSecond: KEPT_BYTES / 20 });
  assert.equal(errorCode, "CANCELLED");
  await assertWell("a", "kept");
  await assertClean(b, "kept");
  assert.equal(await storesOn(b), 0);
  await a.run("docker", "rm", "--force", "kept");
});

test("a counter has printed every number once, before, while and after it moved", async () => {
  await start("counter");
  await move("counter");
  const printed = (await lab.host("b").run("docker", "logs", "counter")).trim().split("\n");
  assert.deepEqual(printed, [...printed.keys()].map(String));
});

/** Accepts nothing as long as the file /gate/open is missing, and answers nothing as long as /gate/answer is. */
const LATE = `
import os, socket, time
listener = socket.create_server(("", 7000), backlog=8)
open("/gate/listens", "w").close()
def wait(name):
    while not os.path.exists(name): time.sleep(0.01)
wait("/gate/open")
connections = [listener.accept()[0] for _ in range(3)]
wait("/gate/answer")
for connection in connections: connection.sendall(b"answer to " + connection.recv(100))
wait("/gate/end")
`;
const CLIENTS = `
import socket, sys
clients = [socket.create_connection(("${LATE_ADDRESS}", 7000)) for _ in range(3)]
for number, client in enumerate(clients): client.sendall(b"%d" % number)
clients[1].shutdown(socket.SHUT_WR)
print("asked", flush=True)
for client in clients: print(client.recv(100).decode(), flush=True)
`;

test("connections that are still to be accepted come along, and one that its client has closed on its side", async () => {
  const [a, client] = [lab.host("a"), lab.host(CLIENT)];
  await a.run("mkdir", "/gate");
  const options = ["--network", LAN, "--ip", LATE_ADDRESS, "--volume", "/gate:/gate", "--entrypoint", "python3"];
  await lab.host("b").run("mkdir", "/gate");
  await a.run("docker", "run", "--detach", "--name", "late", ...options, await provideImage(a, workloadsImage), "-c", LATE);
  await until("it to listen", async () => (await a.exec("test", "-e", "/gate/listens")).code === 0);
  const lines = createInterface({ input: client.spawn(["python3", "-c", CLIENTS], { stdio: ["ignore", "pipe", "inherit"] }).stdout! });
  const said = lines[Symbol.asyncIterator]();
  assert.equal((await said.next()).value, "asked");
  const { outcome, message, report } = await migrate(a, "late", "b", {
    freeze: async () => {
      await delay(300); // the first tries to freeze find them
      await a.run("touch", "/gate/open");
    },
  });
  assert.equal(outcome, "completed", message);
  assert.doesNotMatch(report?.warnings.join() ?? "", /did not come along/);
  await lab.host("b").run("touch", "/gate/answer");
  for (const number of [0, 1, 2]) assert.equal((await said.next()).value, `answer to ${number}`);
});

test("an echo server's client gets each number back once, over one connection", async () => {
  await start("echo");
  const program = [`${CHECKOUT_IN_HOST}/bin/node`, `${CHECKOUT_IN_HOST}/lab/workloads/echo-client.ts`, "--host", ECHO_ADDRESS];
  const client = new ClientProcess<ClientResult>(lab.host(CLIENT).spawn(program, { stdio: ["pipe", "pipe", "inherit"] }), clientResult);
  await client.ready();
  await move("echo");
  const { errors, faults, connections } = await client.stop();
  assert.deepEqual({ errors, connections }, { errors: 0, connections: 1 }, faults.join("\n"));
});
