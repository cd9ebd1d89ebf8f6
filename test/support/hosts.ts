/**
 * Hosts of a cluster in one process, on loopback ports: what the agent's tests begin with.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { pino } from "pino";
import { Cluster } from "../../src/agent/cluster.ts";
import { Link } from "../../src/agent/link.ts";
import { listen } from "../../src/agent/listener.ts";
import { hostName, type HostName } from "../../src/core/ids.ts";

/** A host that listens for channels. */
export interface LinkedHost {
  readonly name: HostName;
  readonly cluster: Cluster;
  readonly link: Link;
}

/** A directory that goes with the test. */
export function temporaryDirectory(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), "dmigrate-test-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** Members of one cluster, each with a listener and a link; the first one is the authority. */
export async function linkedHosts(t: TestContext, ...names: readonly string[]): Promise<LinkedHost[]> {
  const hosts: LinkedHost[] = [];
  for (const text of names) {
    const name = hostName(text);
    const cluster = await Cluster.open(temporaryDirectory(t));
    const link = new Link(cluster, pino({ level: "silent" }));
    const listener = await listen(
      { host: "127.0.0.1", port: 0 },
      cluster,
      { calls: () => undefined, channel: (socket) => void link.serve(socket) },
      pino({ level: "silent" }),
    );
    t.after(async () => await listener[Symbol.asyncDispose]());
    const [first] = hosts;
    if (first === undefined) await cluster.init(name, listener.address);
    else await admit(first.cluster, cluster, name, listener.address);
    for (const other of hosts) other.cluster.add(cluster.member(name));
    hosts.push({ name, cluster, link });
  }
  return hosts;
}

/** Takes an outsider into a cluster without a network between them. */
export async function admit(authority: Cluster, joining: Cluster, name: HostName, address: string): Promise<void> {
  if (joining.state.kind !== "outsider") throw new Error(`${name} is a member already`);
  const { secret } = joining.state.token;
  const { member, certificate } = await authority.issue(name, address, joining.publicKey(secret));
  const { keys, self, members } = authority.membership;
  joining.install(secret, {
    name,
    authority: self,
    authorityCertificate: keys.authority,
    certificate,
    members: [...members.values(), member],
  });
}
