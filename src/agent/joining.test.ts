import assert from "node:assert/strict";
import { existsSync, readdirSync, statSync } from "node:fs";
import { connect as connectPlain } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { connect } from "node:tls";
import { joinedAgents, startAgent, type TestAgent } from "../../test/support/agents.ts";
import { hostName, newMigrationId } from "../core/ids.ts";
import { parsePeerAddress } from "./address.ts";
import { newSelfSigned } from "./certificates.ts";
import { decodeToken, encodeToken } from "./pki.ts";

const [a, b, c] = ["a", "b", "c"].map(hostName) as [ReturnType<typeof hostName>, ReturnType<typeof hostName>, ReturnType<typeof hostName>];
const nothing = (): object => ({});

async function token(agent: TestAgent): Promise<string> {
  return (await agent.client.status()).joinToken!;
}

async function names(agent: TestAgent): Promise<string[]> {
  return (await agent.client.hosts()).map(({ name }) => name);
}

test("two hosts join by a token and answer each other", async (t) => {
  const [first, second] = (await joinedAgents(t, { a: nothing, b: nothing })) as [TestAgent, TestAgent];
  assert.equal((await second.client.status()).host, "b");
  assert.equal((await second.client.status()).joinToken, undefined);
  for (const agent of [first, second]) {
    const hosts = await agent.client.hosts();
    assert.deepEqual(
      hosts.map(({ name, reachable }) => [name, reachable]),
      [
        ["a", true],
        ["b", true],
      ],
    );
  }
  assert.equal(await first.context.peers.to(b).state(newMigrationId(1n)), undefined);
  assert.equal(await second.context.peers.to(a).state(newMigrationId(1n)), undefined);
});
