/**
 * The cluster's list of hosts as an operator changes it: a host is added by its join token or removed, and the other members are told.
 */
import { createClient, type Client } from "@connectrpc/connect";
import { DmigrateError, messageOf } from "../core/errors.ts";
import type { HostName } from "../core/ids.ts";
import { hasEnded } from "../core/journal-states.ts";
import { JoinService } from "../gen/dmigrate/v1/peer_pb.js";
import { memberToProto } from "./api/convert.ts";
import { fromConnectError } from "./api/errors.ts";
import { callsOver } from "./api/transport.ts";
import type { Cluster, Member } from "./cluster.ts";
import { dialPinned } from "./dial.ts";
import type { Journal } from "./journal.ts";
import type { Peer, Peers } from "./peers.ts";
import { decodeToken } from "./pki.ts";

const JOIN_TIMEOUT_MS = 10_000;

/**
 * Takes the host behind `address` into the cluster. Only the authority can. Returns a warning for each member that could not be told.
 * The new member is written down before it learns of it: of two half-done changes, one that `removeHost` undoes.
 */
export async function addHost(cluster: Cluster, peers: Peers, name: HostName, address: string, token: string): Promise<string[]> {
  cluster.mayAdd(name);
  const { fingerprint, secret } = decodeToken(token);
  using joining = await joiningHost(address, fingerprint);
  const { publicKey } = await joining.ask((client) => client.join({ secret, name }, { timeoutMs: JOIN_TIMEOUT_MS }));
  const { member, certificate } = await cluster.issue(name, address, publicKey);
  const { authority, keys, members } = cluster.membership;
  const admission = { secret, name, authority, caPem: keys.authority, certificatePem: certificate };
  cluster.add(member);
  try {
    const all = [...members.values(), member].map(memberToProto);
    await joining.ask((client) => client.install({ ...admission, members: all }, { timeoutMs: JOIN_TIMEOUT_MS }));
  } catch (error) {
    cluster.remove(name);
    throw error;
  }
  const others = cluster.others.filter((other) => other.name !== name);
  return await tell(peers, others, async (peer) => await peer.addMember(member));
}

/**
 * Removes a host from the cluster; this host itself leaves it. Returns a warning for each member that could not be told.
 * Throws MIGRATION_IN_PROGRESS while a migration needs it, USAGE for the authority while there are others.
 */
export async function removeHost(cluster: Cluster, peers: Peers, journal: Journal, name: HostName): Promise<string[]> {
  cluster.member(name);
  ensureMayGo(cluster, journal, name);
  const others = cluster.others.filter((member) => member.name !== name);
  const itself = cluster.others.filter((member) => member.name === name);
  const warnings: string[] = [];
  // The host itself comes last: it leaves only if nobody keeps it.
  for (const members of [others, itself]) warnings.push(...(await tell(peers, members, (peer) => removedAt(peer, name))));
  await forget(cluster, journal, name);
  return warnings;
}

/** Removes a host from this host's own list; this host itself leaves. Throws as `removeHost`. */
export async function forget(cluster: Cluster, journal: Journal, name: HostName): Promise<void> {
  ensureMayGo(cluster, journal, name);
  if (name === cluster.membership.self) await cluster.leave();
  else cluster.remove(name);
}

function ensureMayGo(cluster: Cluster, journal: Journal, name: HostName): void {
  const { self, authority, members } = cluster.membership;
  const user = journal.list().find(({ state, peer }) => !hasEnded(state) && (name === self || name === peer));
  if (user !== undefined) {
    throw new DmigrateError(
      "MIGRATION_IN_PROGRESS",
      `Migration ${user.id} of ${user.container} between ${self} and ${user.peer} has not ended; wait, or \`dmigrate cancel ${user.id}\``,
    );
  }
  const others = [...members.keys()].filter((other) => other !== authority);
  if (name === authority && others.length > 0) {
    throw new DmigrateError(
      "USAGE",
      `Host ${name} holds the cluster's key and goes last: without it no host can be added; run \`dmigrate hosts remove\` for ` +
        `${others.join(", ")} first or, if ${name} is lost, on each of them for itself, and begin a new cluster`,
    );
  }
}

/** A member that has a migration with it keeps it, and so does the cluster: it can be removed later, also where it was by then. */
async function removedAt(peer: Peer, name: HostName): Promise<void> {
  try {
    await peer.removeMember(name);
  } catch (error) {
    if (DmigrateError.from(error).code !== "HOST_UNKNOWN") throw error;
  }
}

/** Returns a warning for each that could not be told. Throws MIGRATION_IN_PROGRESS if one of them refuses because of that. */
async function tell(peers: Peers, members: readonly Member[], what: (peer: Peer) => Promise<void>): Promise<string[]> {
  const told = await Promise.allSettled(members.map(async ({ name }) => await what(peers.to(name))));
  for (const [n, result] of told.entries()) {
    if (result.status !== "rejected" || DmigrateError.from(result.reason).code !== "MIGRATION_IN_PROGRESS") continue;
    throw new DmigrateError("MIGRATION_IN_PROGRESS", `Host ${members[n]?.name} refused: ${messageOf(result.reason)}; try again afterwards`);
  }
  return told.flatMap((result, n) =>
    result.status === "rejected" ? [`Host ${members[n]?.name} was not told: ${messageOf(result.reason)}`] : [],
  );
}

interface JoiningHost extends Disposable {
  ask<T>(call: (client: Client<typeof JoinService>) => Promise<T>): Promise<T>;
}

/** Connects to a host that shows a token, once it has shown the certificate of the token. */
async function joiningHost(address: string, fingerprint: string): Promise<JoiningHost> {
  const socket = await dialPinned(address, fingerprint);
  const calls = callsOver(() => socket);
  const client = createClient(JoinService, calls.transport);
  const lost = (error: unknown): DmigrateError =>
    new DmigrateError("PEER_UNREACHABLE", `The agent at ${address} went away while it joined: ${messageOf(error)}; see its log`, error);
  return {
    async ask(call) {
      try {
        return await call(client);
      } catch (error) {
        throw fromConnectError(error, lost);
      }
    },
    [Symbol.dispose]: () => calls[Symbol.dispose](),
  };
}
