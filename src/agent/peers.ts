/**
 * Calls to other hosts' agents. A connection to each is kept for the next call, and asked for a sign of life while calls are open.
 */
import { createClient, type Client } from "@connectrpc/connect";
import { DmigrateError, toldBy } from "../core/errors.ts";
import type { HostName } from "../core/ids.ts";
import { hostFacts } from "../core/preflight-facts.ts";
import { PeerService } from "../gen/dmigrate/v1/peer_pb.js";
import { JOURNAL_STATES, memberToProto, oneOf, pagesFromProto, parseJson, stepsFromProto } from "./api/convert.ts";
import { fromConnectError } from "./api/errors.ts";
import { parsePeerAddress } from "./address.ts";
import { callsOver, type CallsTransport } from "./api/transport.ts";
import type { Cluster, Member, Membership } from "./cluster.ts";
import { ALPN, connectionLost, dialMember } from "./dial.ts";
import type { CallOptions, PeerCalls } from "./migrations.ts";

/** A peer that does not answer within twice this, while a call is open, is lost. */
const SIGN_OF_LIFE_MS = 5_000;
/** How long a member may take to note a change of the list of hosts. */
const MEMBERSHIP_TIMEOUT_MS = 5_000;

/** What members tell each other besides. */
export interface MemberCalls {
  addMember(member: Member): Promise<void>;
  removeMember(name: HostName): Promise<void>;
}

export type Peer = PeerCalls & MemberCalls;

interface Connection {
  readonly member: Member;
  readonly keys: Membership["keys"];
  readonly calls: CallsTransport;
  readonly peer: Peer;
}

export class Peers implements Disposable {
  readonly #cluster: Cluster;
  readonly #connections = new Map<HostName, Connection>();

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
  }

  /** Connects at the first call. Throws HOST_UNKNOWN unless `host` is a member, HOST_IS_SOURCE if it is this one. */
  to(host: HostName): Peer {
    const { membership } = this.#cluster;
    const member = this.#cluster.member(host);
    if (host === membership.self)
      throw new DmigrateError("HOST_IS_SOURCE", `${host} is this host; name another one, \`dmigrate hosts list\` shows them`);
    const kept = this.#connections.get(host);
    if (kept?.member === member && kept.keys === membership.keys) return kept.peer;
    kept?.calls[Symbol.dispose]();
    const calls = callsOver(() => dialMember(membership, member, ALPN.calls), SIGN_OF_LIFE_MS);
    const peer = peerOver(createClient(PeerService, calls.transport), member);
    this.#connections.set(host, { member, keys: membership.keys, calls, peer });
    return peer;
  }

  /** The name or IP address at which a host is reached. Throws HOST_UNKNOWN. */
  address(host: HostName): string {
    return parsePeerAddress(this.#cluster.member(host).address).host;
  }

  [Symbol.dispose](): void {
    for (const { calls } of this.#connections.values()) calls[Symbol.dispose]();
  }
}

function peerOver(client: Client<typeof PeerService>, member: Member): Peer {
  const lost = (error: unknown): DmigrateError => connectionLost(member, error);
  const asking = async <T>(answer: Promise<T>, options?: CallOptions): Promise<T> => {
    try {
      return await answer;
    } catch (error) {
      throw toldBy(member.name, fromConnectError(error, lost, options?.signal));
    }
  };

  return {
    async facts(arriving, options) {
      const { factsJson } = await asking(client.getFacts({ arrivingJson: JSON.stringify(arriving) }, options), options);
      return parseJson(factsJson, hostFacts);
    },
    async reserve({ migration, source, description, verify }, options) {
      const request = { migration, source, descriptionJson: description, verify };
      const { presentLayers } = await asking(client.reserve(request, options), options);
      return { presentLayers };
    },
    async createContainer(id, options) {
      return (await asking(client.createContainer({ migration: id }, options), options)).warnings;
    },
    async stage(id, { criuOptions, interfaceNames }, options) {
      const request = { migration: id, criuOptions: [...criuOptions], interfaceNames };
      return (await asking(client.stage(request, options), options)).warnings;
    },
    async restore(id, { whole }, options) {
      const { steps, pages } = await asking(client.restore({ migration: id, whole }, options), options);
      return { steps: stepsFromProto(steps), ...(whole ? { pages: pagesFromProto(pages) } : {}) };
    },
    async commit(id, heldPackets, options) {
      return stepsFromProto((await asking(client.commit({ migration: id, heldPackets: [...heldPackets] }, options), options)).steps);
    },
    async deliver(id, packets, options) {
      await asking(client.deliverPackets({ migration: id, packets: [...packets] }, options), options);
    },
    async signal(id, signal, options) {
      await asking(client.sendSignal({ migration: id, signal }, options), options);
    },
    async awaitPages(id, options) {
      return pagesFromProto((await asking(client.awaitPages({ migration: id }, options), options)).pages);
    },
    async *digests(id, options) {
      try {
        for await (const { process, page, digests } of client.getDigests({ migration: id }, options))
          yield { process, page: Number(page), digests };
      } catch (error) {
        throw toldBy(member.name, fromConnectError(error, lost, options?.signal));
      }
    },
    async finish(id, options) {
      const { warnings, restoreSteps } = await asking(client.finish({ migration: id }, options), options);
      return { warnings, restoreSteps: stepsFromProto(restoreSteps) };
    },
    async abort(id, options) {
      await asking(client.abort({ migration: id }, options), options);
    },
    async state(id, options) {
      const { state } = await asking(client.getState({ migration: id }, options), options);
      return state === "" ? undefined : oneOf(JOURNAL_STATES, state, "state of a migration");
    },
    async attend(migration, options) {
      return await attend(client, member.name, asking, migration ?? "", options);
    },
    async addMember(added) {
      await asking(client.addMember({ member: memberToProto(added) }, { timeoutMs: MEMBERSHIP_TIMEOUT_MS }));
    },
    async removeMember(name) {
      await asking(client.removeMember({ name }, { timeoutMs: MEMBERSHIP_TIMEOUT_MS }));
    },
  };
}

type Asking = <T>(answer: Promise<T>, options?: CallOptions) => Promise<T>;

async function attend(
  client: Client<typeof PeerService>,
  host: HostName,
  asking: Asking,
  migration: string,
  options: CallOptions = {},
): ReturnType<PeerCalls["attend"]> {
  const ended = new AbortController();
  const lost = new AbortController();
  const signal = options.signal === undefined ? ended.signal : AbortSignal.any([ended.signal, options.signal]);
  const signs = client.attend({ migration }, { signal })[Symbol.asyncIterator]();
  await asking(signs.next(), { signal });
  const last = asking(signs.next(), { signal });
  last.then(
    () => lost.abort(new DmigrateError("AGENT", `The agent of ${host} ended; start it again with \`dmigrate agent\``)),
    (error: unknown) => {
      if (!signal.aborted) lost.abort(error);
    },
  );
  return { signal: lost.signal, [Symbol.dispose]: () => ended.abort() };
}
