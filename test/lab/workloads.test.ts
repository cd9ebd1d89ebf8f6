/**
 * Every workload that checks itself moves to another host, and goes on there as if nothing had happened.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { workloadNames, workloadsImage } from "../../lab/images/catalogue.ts";
import { CLIENT, LAN, type Lab } from "../../lab/lab.ts";
import { CHECKOUT_IN_HOST } from "../../lab/paths.ts";
import { ClientProcess } from "../../lab/workloads/client-control.ts";
import { clientResult, type ClientResult } from "../../lab/workloads/client-result.ts";
import { assertClean, labOfTwo, migrate, provideImage } from "../support/lab.ts";

const ECHO_ADDRESS = "10.77.0.201";
/** Workloads that do more when asked to. */
const ARGUMENTS: Readonly<Record<string, readonly string[]>> = { memory: ["--mb", "16", "--processes", "2"] };
const OPTIONS: Readonly<Record<string, readonly string[]>> = { echo: ["--ip", ECHO_ADDRESS], journal: ["--volume", "journal:/data"] };

let lab: Lab;
before(async () => {
  lab = await labOfTwo("twork");
  const a = lab.host("a");
  const image = await provideImage(a, workloadsImage);
  for (const name of workloadNames()) {
    const [options = [], args = []] = [OPTIONS[name], ARGUMENTS[name]];
    await a.run("docker", "run", "--detach", "--name", name, "--network", LAN, ...options, image, name, ...args);
  }
});
after(() => lab.down());

async function assertWell(host: string, container: string): Promise<void> {
  const { code, stdout } = await lab.host(host).exec("docker", "exec", container, "check");
  assert.ok(code === 0 && stdout.startsWith("OK "), `${container} on host ${host}: ${stdout.trim()}`);
}

async function move(container: string): Promise<void> {
  await assertWell("a", container);
  const { outcome, message } = await migrate(lab.host("a"), container, "b");
  assert.equal(outcome, "completed", message);
  await assertWell("b", container);
  await assertClean(lab.host("a"), container);
}

for (const name of workloadNames().filter((each) => each !== "echo" && each !== "counter")) test(`${name} goes on`, () => move(name));

test("a counter has printed every number once, before, while and after it moved", async () => {
  await move("counter");
  const printed = (await lab.host("b").run("docker", "logs", "counter")).trim().split("\n");
  assert.deepEqual(printed, [...printed.keys()].map(String));
});

test("an echo server's client gets each number back once, over one connection", async () => {
  const program = [`${CHECKOUT_IN_HOST}/bin/node`, `${CHECKOUT_IN_HOST}/lab/workloads/echo-client.ts`, "--host", ECHO_ADDRESS];
  const client = new ClientProcess<ClientResult>(lab.host(CLIENT).spawn(program, { stdio: ["pipe", "pipe", "inherit"] }), clientResult);
  await client.ready();
  await move("echo");
  const { errors, faults, connections } = await client.stop();
  assert.deepEqual({ errors, connections }, { errors: 0, connections: 1 }, faults.join("\n"));
});
