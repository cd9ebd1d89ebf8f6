/** Whole agents over real sockets: what they tell users and peers, how they start, restart and end. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { connect as connectHttp2 } from "node:http2";
import { createConnection } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { connect } from "node:tls";
import { joinedAgents, startAgent, type TestAgent, type TestSessions } from "../../test/support/agents.ts";
import { temporaryDirectory } from "../../test/support/hosts.ts";
import { collect } from "../../test/support/streams.ts";
import { DmigrateError } from "../core/errors.ts";
import { containerId, hostName, newMigrationId, type MigrationId } from "../core/ids.ts";
import type { MigrationEvent, Report } from "../core/migration.ts";
import { controlClient } from "./client.ts";
import type { AgentContext } from "./context.ts";
import type { MigrateRequest, ReserveRequest, TargetSessions } from "./migrations.ts";

const a = hostName("a");
const b = hostName("b");
const id = newMigrationId(1n);
const web = { id, container: "web", containerId: containerId("c".repeat(64)), detail: { step: "copy" } };
const request: MigrateRequest = {
  container: "web",
  target: b,
  mode: "post-copy",
  keepSource: true,
  maxDowntimeMs: 300,
  bytesPerSecond: 25_000_000,
  verify: true,
};

const report: Report = {
  id,
  container: "web",
  containerId: web.containerId,
  source: a,
  target: b,
  mode: "post-copy",
  outcome: "rolled-back",
  totalMs: 12.5,
  downtimeMs: 0,
  phases: [{ name: "copy", startMs: 1, endMs: 2 }],
  steps: [],
  bytes: { memory: 1, files: 2, layers: 3, metadata: 4, total: 10, late: 1 },
  pages: { total: 5, copiedAhead: 4, demanded: 3, pushed: 2, zero: 1, waits: { count: 0, p50Ms: 0, p99Ms: 0, maxMs: 0 } },
  rounds: [{ startMs: 1, endMs: 2, pageCount: 3, writtenCount: 4 }],
  plans: [],
  warnings: ["slow"],
  error: { code: "CANCELLED", message: "Cancelled by its user" },
};
const events: MigrationEvent[] = [
  { kind: "phase-began", atMs: 0, phase: "copy" },
  { kind: "warning", atMs: 1, message: "slow" },
  { kind: "ended", atMs: 12.5, report },
];
const began = { kind: "began", atMs: 0, id, container: "web", source: a, target: b };

/** A source that begins a migration and leaves the rest to its test. */
const beginning =
  (requests: MigrateRequest[] = []) =>
  ({ journal }: AgentContext) => ({
    migrations: {
      migrate(asked: MigrateRequest): Promise<MigrationId> {
        requests.push(asked);
        journal.begin({ ...web, role: "source", peer: asked.target });
        return Promise.resolve(id);
      },
      cancel: () => Promise.reject(new DmigrateError("CANCEL_TOO_LATE", "It has been handed over; wait for its end")),
    },
  });

/** The one migration that a host knows, but for the time it began, which is now. */
async function onlySummary({ client }: TestAgent): Promise<object> {
  const summaries = await client.list();
  assert.equal(summaries.length, 1);
  const { beganAtMs, ...rest } = summaries[0]!;
  assert.ok(Math.abs(beganAtMs - Date.now()) < 60_000);
  return rest;
}

test("a migration is told to who began it, and to who watches it later", async (t) => {
  const requests: MigrateRequest[] = [];
  const [first] = (await joinedAgents(t, { a: beginning(requests), b: () => ({}) })) as [TestAgent];
  const stream = first.client.migrate(request)[Symbol.asyncIterator]();
  assert.deepEqual((await stream.next()).value, began);
  assert.deepEqual(requests, [request]);
  for (const event of events) first.context.events.publish(id, event);
  assert.deepEqual(await collect({ [Symbol.asyncIterator]: () => stream }), events);
  assert.deepEqual(await collect(first.client.watch(id)), [began, ...events]);
  assert.deepEqual(await first.client.report(id), report);
});

test("a watcher that goes away does not end the migration, nor another watcher", async (t) => {
  const [first] = (await joinedAgents(t, { a: beginning(), b: () => ({}) })) as [TestAgent];
  const cut = new AbortController();
  const stream = first.client.migrate(request, { signal: cut.signal })[Symbol.asyncIterator]();
  await stream.next();
  using other = controlClient(first.agent.socketPath);
  const watched = collect(other.watch(id));
  const waiting = stream.next();
  cut.abort();
  await assert.rejects(waiting, { code: "CANCELLED" });
  for (const event of events) first.context.events.publish(id, event);
  assert.deepEqual(await watched, [began, ...events]);
});

test("list, report and cancel tell how migrations stand", async (t) => {
  const [first, second] = (await joinedAgents(t, { a: beginning(), b: () => ({}) })) as [TestAgent, TestAgent];
  const stream = first.client.migrate(request)[Symbol.asyncIterator]();
  await stream.next();
  first.context.events.publish(id, events[0]!);
  const { journal } = second.context;
  journal.begin({ ...web, role: "target", peer: a });
  journal.move(id, "prepared");
  const parties = { id, container: "web", source: a, target: b };
  assert.deepEqual(await onlySummary(first), { ...parties, role: "source", state: "running", phase: "copy" });
  assert.deepEqual(await onlySummary(second), { ...parties, role: "target", state: "prepared" });
  await assert.rejects(first.client.report(id), { code: "MIGRATION_IN_PROGRESS" });
  for (const asked of [collect(second.client.watch(id)), second.client.report(id), second.client.cancel(id, { takeBack: false })])
    await assert.rejects(asked, { code: "MIGRATION_NOT_FOUND", message: /^Host a drives migration .*; run `dmigrate .*` there$/ });
  await assert.rejects(first.client.cancel(id, { takeBack: false }), {
    code: "CANCEL_TOO_LATE",
    message: "It has been handed over; wait for its end",
  });
  first.context.events.publish(id, events[2]!);
  await assert.rejects(first.client.cancel(id, { takeBack: false }), {
    code: "CANCEL_TOO_LATE",
    message: /has ended already, as rolled-back/,
  });
  journal.move(id, "rolled-back");
  await assert.rejects(second.client.report(id), { code: "MIGRATION_NOT_FOUND", message: /ask host a/ });
  const lost = newMigrationId(2n);
  journal.begin({ ...web, id: lost, container: "db", role: "target", peer: a });
  for (const state of ["prepared", "owner", "failed"] as const) journal.move(lost, state);
  const advice = /^db belongs to this host since migration \w+, .*`docker restart db` starts it anew; host a has the report/;
  await assert.rejects(second.client.report(lost), { code: "MEMORY_LOST", message: advice });
  const unknown = newMigrationId(9n);
  await assert.rejects(first.client.report(unknown), { code: "MIGRATION_NOT_FOUND" });
  await assert.rejects(first.client.cancel(unknown, { takeBack: false }), { code: "MIGRATION_NOT_FOUND" });
  await assert.rejects(collect(first.client.watch(unknown)), { code: "MIGRATION_NOT_FOUND" });
  for (const host of [b, a]) await first.client.removeHost(host);
  assert.deepEqual(await onlySummary(first), { ...parties, role: "source", state: "rolled-back", phase: "copy" }); // under its name of then
});

test("a target that cannot be one is refused before anything begins", async (t) => {
  const [first] = (await joinedAgents(t, { a: () => ({}), b: () => ({}) })) as [TestAgent];
  await assert.rejects(collect(first.client.migrate({ ...request, target: a })), { code: "HOST_IS_SOURCE" });
  await assert.rejects(collect(first.client.migrate({ ...request, target: hostName("nobody") })), { code: "HOST_UNKNOWN" });
  const alone = await startAgent(t);
  await assert.rejects(alone.client.check("web", b, "auto"), { code: "NOT_INITIALISED", message: /dmigrate init/ });
});

test("a session answers only the host that reserved it", async (t) => {
  const reservations: ReserveRequest[] = [];
  const aborted: MigrationId[] = [];
  const target = ({ journal }: AgentContext): { targets: Partial<TargetSessions> } => ({
    targets: {
      reserve(asked) {
        reservations.push(asked);
        journal.begin({ ...web, id: asked.migration, role: "target", peer: asked.source });
        return Promise.resolve({ presentLayers: ["sha256:1"] });
      },
      restore: (_id, { whole }) =>
        Promise.resolve({ steps: [{ name: "criu", startMs: 1.5, endMs: 2.5 }], ...(whole ? { pages: report.pages } : {}) }),
      commit: (_id, heldPackets) => Promise.resolve([{ name: "resume", startMs: 0, endMs: heldPackets[0]![0]! }]),
      awaitPages: () => Promise.resolve(report.pages),
      createContainer: () => Promise.resolve(["no swap"]),
      stage: (_id, { criuOptions, interfaceNames }) => Promise.resolve([...criuOptions, ...Object.entries(interfaceNames).flat()]),
      abort(which) {
        aborted.push(which);
        return Promise.resolve();
      },
    },
  });
  const [first, second, third] = (await joinedAgents(t, { a: () => ({}), b: target, c: () => ({}) })) as [TestAgent, TestAgent, TestAgent];
  const peer = first.context.peers.to(b);
  const stranger = third.context.peers.to(b);
  const reserve = { migration: id, source: a, description: '{"Image":"redis"}', verify: true };
  await assert.rejects(peer.restore(id, { whole: false }), { code: "MIGRATION_NOT_FOUND" });
  await assert.rejects(stranger.reserve(reserve), { code: "PEER_REFUSED", message: /Host c cannot reserve for a/ });
  assert.deepEqual(await peer.reserve(reserve), { presentLayers: ["sha256:1"] });
  assert.deepEqual(reservations, [reserve]);
  const restoring = (): Promise<unknown> => stranger.restore(id, { whole: true });
  for (const call of [restoring, () => stranger.commit(id, []), () => stranger.abort(id), () => stranger.awaitPages(id)]) {
    await assert.rejects(call, { code: "MIGRATION_NOT_FOUND", message: /has not been reserved by c/ });
  }
  assert.equal(await stranger.state(id), undefined);
  assert.equal(await peer.state(id), "running");
  assert.deepEqual(await peer.createContainer(id), ["no swap"]);
  assert.deepEqual(await peer.stage(id, { criuOptions: ["x"], interfaceNames: { "0a490001": "eth0" } }), ["x", "0a490001", "eth0"]);
  const steps = [{ name: "criu", startMs: 1.5, endMs: 2.5 }];
  assert.deepEqual(await peer.restore(id, { whole: false }), { steps });
  assert.deepEqual(await peer.restore(id, { whole: true }), { steps, pages: report.pages });
  assert.deepEqual(await peer.commit(id, [Buffer.from([42])]), [{ name: "resume", startMs: 0, endMs: 42 }]);
  assert.deepEqual(await peer.awaitPages(id), report.pages);
  await peer.abort(id);
  assert.deepEqual(aborted, [id]);
  // The other way round, a target may ask its source how the migration stands.
  first.context.journal.begin({ ...web, role: "source", peer: b });
  first.context.journal.move(id, "committed");
  assert.equal(await second.context.peers.to(a).state(id), "committed");
});

test("a call under way is cancelled by its signal, and lost with its peer", async (t) => {
  const cancelled = Promise.withResolvers<void>();
  const [first, second] = (await joinedAgents(t, {
    a: () => ({}),
    b: ({ journal }) => ({
      targets: {
        async awaitPages(_id, options) {
          options!.signal!.addEventListener("abort", () => cancelled.resolve());
          return await new Promise<never>(() => journal);
        },
      },
    }),
  })) as [TestAgent, TestAgent];
  second.context.journal.begin({ ...web, role: "target", peer: a });
  const abort = new AbortController();
  const call = first.context.peers.to(b).awaitPages(id, { signal: abort.signal });
  setImmediate(() => abort.abort(new DmigrateError("CANCELLED", "Cancelled by its user")));
  await assert.rejects(call, { code: "CANCELLED", message: "Cancelled by its user" });
  const lost = assert.rejects(first.context.peers.to(b).awaitPages(id), {
    code: "PEER_UNREACHABLE",
    message: /^Host b does not answer at/,
  });
  await first.context.peers.to(b).state(id); // the call before it has been sent by now
  await second.agent[Symbol.asyncDispose]();
  await lost;
  await cancelled.promise;
});

test("an attendance ends with its peer, and only then", async (t) => {
  const [first, second] = (await joinedAgents(t, { a: () => ({}), b: () => ({}) })) as [TestAgent, TestAgent];
  const peer = first.context.peers.to(b);
  const quiet = await peer.attend();
  const attendance = await peer.attend();
  quiet[Symbol.dispose]();
  await peer.state(id);
  assert.equal(attendance.signal.aborted, false);
  await second.agent[Symbol.asyncDispose]();
  if (!attendance.signal.aborted) await once(attendance.signal, "abort");
  assert.equal((attendance.signal.reason as DmigrateError).code, "AGENT");
  assert.equal(quiet.signal.aborted, false);
  await assert.rejects(peer.attend(), { code: "PEER_UNREACHABLE" });
});

test("an attendance to a migration ends with it, and none begins after its end", async (t) => {
  const underWay = new Set([id]);
  const source = (): TestSessions => ({ migrations: { isUnderWay: (asked) => underWay.has(asked) } });
  const [, second] = (await joinedAgents(t, { a: source, b: () => ({}) })) as [TestAgent, TestAgent];
  using attendance = await second.context.peers.to(a).attend(id);
  underWay.clear();
  if (!attendance.signal.aborted) await once(attendance.signal, "abort");
  assert.equal((attendance.signal.reason as DmigrateError).code, "AGENT"); // as the target notes it
  await assert.rejects(second.context.peers.to(a).attend(id), { code: "MIGRATION_NOT_FOUND" });
});

test("an agent that restarts knows what it was doing, and serves when it has recovered", async (t) => {
  const [first, second] = (await joinedAgents(t, { a: beginning(), b: () => ({}) })) as [TestAgent, TestAgent];
  const stream = first.client.migrate(request)[Symbol.asyncIterator]();
  await stream.next();
  first.context.events.publish(id, events[1]!);
  await first.agent[Symbol.asyncDispose]();
  await assert.rejects(stream.next(), { code: "AGENT_UNREACHABLE" });

  const seen: unknown[] = [];
  const restarted = await startAgent(
    t,
    ({ journal, events: hub, peers }) => ({
      migrations: {
        async recover() {
          seen.push(...journal.unfinished("source").map((record) => [record.id, record.state, record.detail]));
          seen.push(await peers.to(b).state(id)); // the other side can be asked already
          hub.publish(id, events[2]!);
        },
      },
    }),
    { dir: first.dir },
  );
  assert.deepEqual(seen, [[id, "running", { step: "copy" }], undefined]);
  assert.deepEqual(await collect(restarted.client.watch(id)), [began, events[1], events[2]]);
  assert.ok(second);
});

test("sessions are asked for nothing before they have recovered", async (t) => {
  const order: string[] = [];
  const recovering = Promise.withResolvers<void>();
  const target = ({ journal }: AgentContext): { targets: Partial<TargetSessions> } => ({
    targets: {
      async recover() {
        await recovering.promise;
        order.push("recovered");
      },
      finish() {
        order.push("asked");
        journal.move(id, "rolled-back");
        return Promise.resolve({ warnings: ["it has ended"], restoreSteps: [] });
      },
    },
  });
  const [first, second] = (await joinedAgents(t, { a: () => ({}), b: () => ({}) })) as [TestAgent, TestAgent];
  second.context.journal.begin({ ...web, role: "target", peer: a });
  await second.agent[Symbol.asyncDispose]();
  const port = Number(second.agent.listen.split(":").at(-1));
  const restarting = startAgent(t, target, { dir: second.dir, port });
  const finished = untilAnswered(() => first.context.peers.to(b).finish(id));
  assert.equal(await untilAnswered(() => first.context.peers.to(b).state(id)), "running"); // so the agent listens
  recovering.resolve();
  await restarting;
  assert.deepEqual(await finished, { warnings: ["it has ended"], restoreSteps: [] });
  assert.deepEqual(order, ["recovered", "asked"]);
});

test("a target that dials again before its source has recovered is served once it has", async (t) => {
  const recovering = Promise.withResolvers<void>();
  const source = ({ link }: AgentContext): TestSessions => ({
    migrations: {
      async recover() {
        await recovering.promise;
        t.after(() => expecting[Symbol.dispose]());
        const expecting = link.expect(b, id);
      },
    },
  });
  const [first, second] = (await joinedAgents(t, { a: () => ({}), b: () => ({}) })) as [TestAgent, TestAgent];
  await first.agent[Symbol.asyncDispose]();
  const port = Number(first.agent.listen.split(":").at(-1));
  const restarting = startAgent(t, source, { dir: first.dir, port });
  assert.equal(await untilAnswered(() => second.context.peers.to(a).state(id)), undefined); // so the agent listens
  const dialling = second.context.link.dial(a, id);
  dialling.catch(() => {}); // told below
  for (let asked = 0; asked < 10; asked++) await second.context.peers.to(a).state(id); // what was sent before has come
  recovering.resolve();
  await restarting;
  using _trunk = await dialling;
});

/** Asks again while there is nobody to ask. */
async function untilAnswered<T>(ask: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof DmigrateError && error.code === "PEER_UNREACHABLE")) throw error;
    }
  }
}

test("calls of another version are refused by its number, by users as by hosts", async (t) => {
  const { agent } = await startAgent(t);
  const [host = "", port = ""] = agent.listen.split(":");
  const ways = {
    ControlService: () => createConnection(agent.socketPath),
    JoinService: () => connect({ host, port: Number(port), rejectUnauthorized: false, ALPNProtocols: ["h2"] }),
  };
  for (const [service, dial] of Object.entries(ways)) {
    const session = connectHttp2("https://agent", { createConnection: dial });
    t.after(() => session.destroy());
    const ask = async (version: Readonly<Record<string, string>>): Promise<string> => {
      const path = `/dmigrate.v1.${service}/${service === "ControlService" ? "GetStatus" : "Join"}`;
      const call = session.request({ ":method": "POST", ":path": path, "content-type": "application/json", ...version });
      return await text(call.end("{}"));
    };
    assert.match(await ask({ "dmigrate-calls": "2" }), /Version 2 of the calls was used, this agent speaks version 1; update both/);
    assert.match(await ask({ "dmigrate-calls": "1 and more" }), /Version none of the calls was used/);
    assert.match(await ask({}), /Version none of the calls was used/);
    assert.doesNotMatch(await ask({ "dmigrate-calls": "1" }), /of the calls was used/);
  }
});

test("a second agent is refused, by its state, its socket and its port", async (t) => {
  const first = await startAgent(t);
  // In /proc the kernel says ENOENT also where there is something above.
  for (const dir of ["/proc/dmigrate", "/etc/passwd"])
    await assert.rejects(startAgent(t, undefined, { dir }), { code: "AGENT", message: new RegExp(`Cannot make the folder ${dir}`) });
  await assert.rejects(startAgent(t, undefined, { dir: first.dir }), { code: "AGENT", message: /Another agent uses .*state/ });
  const port = Number(first.agent.listen.split(":").at(-1));
  await assert.rejects(startAgent(t, undefined, { port }), { code: "AGENT", message: /Cannot listen at 127.0.0.1:\d+: .*EADDRINUSE/ });
  const dir = temporaryDirectory(t);
  symlinkSync(join(first.dir, "run"), join(dir, "run"));
  await assert.rejects(startAgent(t, undefined, { dir }), { code: "AGENT", message: /Another agent answers at .*agent.sock/ });
  assert.equal((await first.client.status()).listen, first.agent.listen); // none of this has hurt it
});

test("only root can open the control socket; one that a dead agent left is replaced", async (t) => {
  const dir = temporaryDirectory(t);
  mkdirSync(join(dir, "run"));
  writeFileSync(join(dir, "run", "agent.sock"), "");
  const { agent, client } = await startAgent(t, undefined, { dir });
  assert.equal(statSync(agent.socketPath).mode & 0o777, 0o600);
  const { version, ...status } = await client.status();
  assert.match(version, /^\d+\.\d+\.\d+$/);
  assert.deepEqual(Object.keys(status).toSorted(), ["joinToken", "listen", "pid"]);
});

test("without an agent, a command is told how to start one", async (t) => {
  using client = controlClient(join(temporaryDirectory(t), "agent.sock"));
  await assert.rejects(client.status(), {
    code: "AGENT_UNREACHABLE",
    message: /^No agent answers at .*agent.sock: .*ENOENT.*; start it with `dmigrate agent`$/,
  });
  await assert.rejects(collect(client.watch(id)), { code: "AGENT_UNREACHABLE" });
});

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  test(`${signal} ends an agent cleanly, its sessions first`, async (t) => {
    const dir = temporaryDirectory(t);
    const script = `
      const { serveUntilSignal } = await import(${JSON.stringify(import.meta.resolve("./main.ts"))});
      const session = (name) => ({ recover: async () => {}, [Symbol.asyncDispose]: async () => console.log(name + " ended") });
      await serveUntilSignal(
        { stateDir: ${JSON.stringify(join(dir, "state"))}, runDir: ${JSON.stringify(join(dir, "run"))}, listen: "127.0.0.1:0" },
        () => ({ migrations: session("source"), targets: session("target") }),
      );`;
    const agent = spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: ["ignore", "pipe", "pipe"] });
    t.after(() => agent.kill("SIGKILL"));
    const output: Buffer[] = [];
    agent.stdout.on("data", (chunk: Buffer) => output.push(chunk));
    const log: Record<string, unknown>[] = [];
    const ended = once(agent, "exit");
    for await (const line of createInterface(agent.stderr)) {
      log.push(JSON.parse(line) as Record<string, unknown>);
      if (existsSync(join(dir, "run", "agent.sock")) && log.length === 1) agent.kill(signal);
    }
    assert.deepEqual(await ended, [0, null]);
    assert.match(String(log[0]?.["msg"]), /^in no cluster: .* with the token that `dmigrate status` shows/);
    assert.doesNotMatch(JSON.stringify(log), /[\w-]{64}/, "the token is no secret in a log");
    assert.equal(log.at(-1)?.["signal"], signal);
    assert.equal(Buffer.concat(output).toString(), "source ended\ntarget ended\n");
    assert.equal(existsSync(join(dir, "run", "agent.sock")), false);
  });
}
