/** Who gets into a cluster, and who stays out: agents over real TLS on loopback. */
import assert from "node:assert/strict";
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { connect, type ConnectionOptions } from "node:tls";
import { joinedAgents, startAgent, type TestAgent } from "../../test/support/agents.ts";
import { containerId, hostName, newMigrationId } from "../core/ids.ts";
import { parsePeerAddress } from "./address.ts";
import { newSelfSigned } from "./certificates.ts";
import { decodeToken, encodeToken, readMemberKeys } from "./pki.ts";

const a = hostName("a");
const b = hostName("b");
const c = hostName("c");
const nothing = (): object => ({});

async function cluster(t: TestContext, ...names: readonly string[]): Promise<TestAgent[]> {
  return await joinedAgents(t, Object.fromEntries(names.map((name) => [name, nothing])));
}

async function tokenOf(agent: TestAgent): Promise<string> {
  return (await agent.client.status()).joinToken!;
}

async function namesOn(agent: TestAgent): Promise<string[]> {
  return (await agent.client.hosts()).map(({ name }) => name);
}

/** Connects and says what every HTTP/2 client says first: whether the agent answers or cuts the connection. */
async function stranger(address: string, options: ConnectionOptions): Promise<string> {
  const socket = connect({ ...parsePeerAddress(address), rejectUnauthorized: false, ALPNProtocols: ["h2"], ...options });
  socket.once("secureConnect", () =>
    socket.write(Buffer.from("505249202a20485454502f322e300d0a0d0a534d0d0a0d0a000000040000000000", "hex")),
  );
  const answer = await new Promise<string>((resolve) => {
    socket.once("data", () => resolve("answered"));
    socket.once("error", () => resolve("cut"));
    socket.once("close", () => resolve("cut"));
  });
  socket.destroy();
  return answer;
}

test("hosts join by their tokens and answer each other, at the address they had before", async (t) => {
  const [first, second, third] = (await cluster(t, "a", "b", "c")) as [TestAgent, TestAgent, TestAgent];
  assert.equal((await second.client.status()).host, "b");
  assert.equal(await tokenOf(second), undefined);
  for (const agent of [first, second, third]) {
    const hosts = await agent.client.hosts();
    assert.deepEqual(
      hosts.map(({ name, reachable }) => [name, reachable]),
      [
        ["a", true],
        ["b", true],
        ["c", true],
      ],
    );
  }
  assert.equal(await second.context.peers.to(c).state(newMigrationId(1n)), undefined);
});

test("what a host knows of its cluster survives its restart", async (t) => {
  const [first, second] = (await cluster(t, "a", "b")) as [TestAgent, TestAgent];
  await second.agent[Symbol.asyncDispose]();
  const restarted = await startAgent(t, nothing, { dir: second.dir });
  assert.equal((await restarted.client.status()).host, "b");
  assert.equal(await restarted.context.peers.to(a).state(newMigrationId(1n)), undefined);
  await assert.rejects(first.context.peers.to(b).state(newMigrationId(1n)), { code: "PEER_UNREACHABLE" }); // it has another port now
});

test("a wrong secret is refused, and after ten the token is void", async (t) => {
  const [first] = (await cluster(t, "a")) as [TestAgent];
  const joining = await startAgent(t);
  const token = await tokenOf(joining);
  const wrong = encodeToken({ ...decodeToken(token), secret: Buffer.alloc(16) });
  for (let attempt = 1; attempt <= 9; attempt++) {
    await assert.rejects(first.client.addHost(b, joining.agent.listen, wrong), {
      code: "PEER_REFUSED",
      message: /does not know this join token/,
    });
    assert.equal(await tokenOf(joining), token);
  }
  await assert.rejects(first.client.addHost(b, joining.agent.listen, wrong), { code: "PEER_REFUSED" });
  await assert.rejects(first.client.addHost(b, joining.agent.listen, token), { code: "PEER_REFUSED" });
  assert.deepEqual(await namesOn(first), ["a"]);
  await first.client.addHost(b, joining.agent.listen, await tokenOf(joining));
  assert.deepEqual(await namesOn(first), ["a", "b"]);
});

test("a host that shows another certificate than the token's gets no secret", async (t) => {
  const [first] = (await cluster(t, "a")) as [TestAgent];
  const joining = await startAgent(t);
  const token = await tokenOf(joining);
  const wrong = encodeToken({ ...decodeToken(token), fingerprint: "0".repeat(64) });
  for (let attempt = 1; attempt <= 11; attempt++) {
    await assert.rejects(first.client.addHost(b, joining.agent.listen, wrong), {
      code: "PEER_REFUSED",
      message: /not the one that made this token/,
    });
  }
  assert.equal(await tokenOf(joining), token); // no secret arrived, so none was wrong
});

test("a token is used once", async (t) => {
  const [first] = (await cluster(t, "a")) as [TestAgent];
  const joining = await startAgent(t);
  const token = await tokenOf(joining);
  await first.client.addHost(b, joining.agent.listen, token);
  await assert.rejects(first.client.addHost(c, joining.agent.listen, token), { code: "PEER_REFUSED", message: /the token has been used/ });
  assert.deepEqual(await namesOn(joining), ["a", "b"]);
});

test("what cannot be added is refused with its cause", async (t) => {
  const [first, second] = (await cluster(t, "a", "b")) as [TestAgent, TestAgent];
  const joining = await startAgent(t);
  const token = await tokenOf(joining);
  const { listen } = joining.agent;
  await assert.rejects(first.client.addHost(c, listen, "abc"), { code: "USAGE", message: /no join token/ });
  await assert.rejects(first.client.addHost(c, "127.0.0.1:1", token), {
    code: "PEER_UNREACHABLE",
    message: /No agent answers at 127.0.0.1:1: .*ECONNREFUSED/,
  });
  await assert.rejects(first.client.addHost(b, listen, token), { code: "USAGE", message: /named b is in the cluster already/ });
  await assert.rejects(second.client.addHost(c, listen, token), { code: "USAGE", message: /Only host a can add hosts/ });
  await assert.rejects(joining.client.addHost(c, listen, token), { code: "NOT_INITIALISED" });
  await assert.rejects(second.client.init(c, listen), { code: "USAGE", message: /in a cluster already, as b/ });
  await first.client.addHost(c, listen, token); // none of this has hurt the token
});

test("a member that cannot be told of a change is named", async (t) => {
  const [first, second] = (await cluster(t, "a", "b")) as [TestAgent, TestAgent];
  await second.agent[Symbol.asyncDispose]();
  const joining = await startAgent(t);
  const { warnings } = await first.client.addHost(c, joining.agent.listen, await tokenOf(joining));
  assert.equal(warnings.length, 1);
  assert.match(warnings[0]!, /Host b was not told: Host b does not answer/);
  assert.deepEqual(await namesOn(joining), ["a", "b", "c"]);
});

test("a member cuts whoever shows no certificate of its cluster", async (t) => {
  const [first] = (await cluster(t, "a")) as [TestAgent];
  const [foreign] = (await cluster(t, "b")) as [TestAgent];
  const joining = await startAgent(t);
  const { certificate: cert, key } = await newSelfSigned();
  const { host: other } = readMemberKeys(join(foreign.dir, "state"), true);
  const { host: own } = readMemberKeys(join(first.dir, "state"), true);
  assert.equal(await stranger(first.agent.listen, { cert: own.certificate, key: own.key }), "answered");
  assert.equal(await stranger(first.agent.listen, {}), "cut");
  assert.equal(await stranger(first.agent.listen, { cert: other.certificate, key: other.key }), "cut");
  assert.equal(await stranger(first.agent.listen, { cert, key }), "cut");
  assert.equal(await stranger(first.agent.listen, { maxVersion: "TLSv1.2" }), "cut");
  assert.equal(await stranger(joining.agent.listen, {}), "answered"); // so that it can be added
});

test("a removed host leaves, may join again, and its old certificate is worth nothing", async (t) => {
  const [first, second, third] = (await cluster(t, "a", "b", "c")) as [TestAgent, TestAgent, TestAgent];
  assert.deepEqual(await first.client.removeHost(b), { warnings: [] });
  for (const agent of [first, third]) assert.deepEqual(await namesOn(agent), ["a", "c"]);
  await assert.rejects(second.client.hosts(), { code: "NOT_INITIALISED" });
  await assert.rejects(first.client.check("web", b, "auto"), { code: "HOST_UNKNOWN" });
  await first.client.addHost(b, second.agent.listen, await tokenOf(second));
  assert.equal(await third.context.peers.to(b).state(newMigrationId(1n)), undefined);
});

test("the host with the cluster's key goes last; any other may leave", async (t) => {
  const [first, second, third] = (await cluster(t, "a", "b", "c")) as [TestAgent, TestAgent, TestAgent];
  for (const agent of [first, second]) {
    await assert.rejects(agent.client.removeHost(a), { code: "USAGE", message: /Host a holds the cluster's key.*for b, c first/ });
  }
  await assert.rejects(second.context.peers.to(a).removeMember(a), { code: "USAGE" });
  assert.deepEqual(await second.client.removeHost(b), { warnings: [] });
  for (const agent of [first, third]) assert.deepEqual(await namesOn(agent), ["a", "c"]);
  await assert.rejects(second.client.hosts(), { code: "NOT_INITIALISED" });
  await first.client.removeHost(c);
  assert.deepEqual(await first.client.removeHost(a), { warnings: [] });
  await assert.rejects(first.client.hosts(), { code: "NOT_INITIALISED" });
});

test("a host removed behind its back is refused, also when another one has its name", async (t) => {
  const [first, second] = (await cluster(t, "a", "b")) as [TestAgent, TestAgent];
  await second.agent[Symbol.asyncDispose]();
  const { warnings } = await first.client.removeHost(b);
  assert.match(warnings[0]!, /Host b was not told/);
  const back = await startAgent(t, nothing, { dir: second.dir });
  await assert.rejects(back.context.peers.to(a).state(newMigrationId(1n)), {
    code: "PEER_REFUSED",
    message: /does not know the asking one/,
  });
  const another = await startAgent(t);
  await first.client.addHost(b, another.agent.listen, await tokenOf(another));
  await assert.rejects(back.context.peers.to(a).state(newMigrationId(1n)), { code: "PEER_REFUSED" });
  assert.equal(await another.context.peers.to(a).state(newMigrationId(1n)), undefined);
});

test("an agent of another cluster at the address of a member is not taken for it", async (t) => {
  const [first, second] = (await cluster(t, "a", "b")) as [TestAgent, TestAgent];
  await second.agent[Symbol.asyncDispose]();
  const another = await startAgent(t, nothing, { port: parsePeerAddress(second.agent.listen).port });
  const asked = async (): Promise<unknown> => await first.context.peers.to(b).state(newMigrationId(1n));
  await assert.rejects(asked, { code: "PEER_REFUSED", message: /is not host b of this cluster/ });
  await another.client.init(b, another.agent.listen);
  await assert.rejects(asked, { code: "PEER_REFUSED", message: /is not host b of this cluster/ });
});

const MIGRATION = {
  id: newMigrationId(1n),
  role: "source",
  container: "web",
  containerId: containerId("a".repeat(64)),
  detail: null,
} as const;

test("a host that a migration needs is not removed", async (t) => {
  const [first, second] = (await cluster(t, "a", "b")) as [TestAgent, TestAgent];
  const { journal } = first.context;
  const { id } = journal.begin({ ...MIGRATION, peer: b });
  for (const host of [a, b])
    await assert.rejects(first.client.removeHost(host), { code: "MIGRATION_IN_PROGRESS", message: /m000000000001 of web/ });
  assert.deepEqual(await namesOn(second), ["a", "b"]);
  journal.move(id, "rolled-back");
  await first.client.removeHost(b);
});

test("a host that a migration between two others needs stays a member everywhere, until that has ended", async (t) => {
  const [first, second, third] = (await cluster(t, "a", "b", "c")) as [TestAgent, TestAgent, TestAgent];
  const { journal } = second.context;
  const { id } = journal.begin({ ...MIGRATION, peer: c });
  await assert.rejects(first.client.removeHost(c), {
    code: "MIGRATION_IN_PROGRESS",
    message: /^Host b refused: Migration m000000000001 of web between b and c has not ended; .* try again afterwards$/,
  });
  assert.ok((await namesOn(first)).includes("c"));
  journal.move(id, "rolled-back");
  assert.deepEqual(await first.client.removeHost(c), { warnings: [] });
  for (const host of [first, second]) assert.deepEqual(await namesOn(host), ["a", "b"]);
  await assert.rejects(third.client.hosts(), { code: "NOT_INITIALISED" });
});

test("keys lie where only root reads them", async (t) => {
  const [first, second] = (await cluster(t, "a", "b")) as [TestAgent, TestAgent];
  for (const [agent, files] of [
    [first, ["ca-key.pem", "ca.pem", "host-key.pem", "host.pem"]],
    [second, ["ca.pem", "host-key.pem", "host.pem"]],
  ] as const) {
    const state = join(agent.dir, "state");
    assert.deepEqual(readdirSync(join(state, "pki")).toSorted(), files);
    for (const dir of [state, join(state, "pki")]) assert.equal(statSync(dir).mode & 0o777, 0o700, dir);
    for (const file of [...files.map((name) => join("pki", name)), "cluster.json", "journal.db"]) {
      assert.equal(statSync(join(state, file)).mode & 0o777, 0o600, file);
    }
  }
});
