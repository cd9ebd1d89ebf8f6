/**
 * Opens channels to other hosts and accepts theirs: each a connection of its own, or all of a migration's on one trunk. Which of the two is
 * for the side that opens them to say.
 */
import type { Duplex } from "node:stream";
import type { TLSSocket } from "node:tls";
import type { Logger } from "pino";
import { DmigrateError, toldBy } from "../core/errors.ts";
import type { HostName, MigrationId } from "../core/ids.ts";
import type { TrunkStream } from "../transfer/stream.ts";
import type { Trunk } from "../transfer/trunk.ts";
import { encodeAcceptance } from "../wire/hello.ts";
import { Channel } from "./channel.ts";
import type { ChannelKind } from "./channels.ts";
import type { Cluster, Member } from "./cluster.ts";
import type { AgentConfig } from "./config.ts";
import { connectionLost } from "./dial.ts";
import { openConnection, readOffer, refuse } from "./handshake.ts";
import { Trunks } from "./trunks.ts";

export { type Channel, receiveAll, sendAll } from "./channel.ts";

/** Serves one channel. When it returns, the opener's `close` does; what it throws, the opener's calls throw. */
export type ChannelHandler = (channel: Channel) => Promise<void>;

interface Expected {
  readonly peer: HostName;
  readonly handler: ChannelHandler;
  readonly admit: () => void;
}

/** How long a trunk that is to end may take for what is still on it. */
const LINGER_MS = 10_000;

export class Link {
  readonly #cluster: Cluster;
  readonly #log: Logger;
  readonly #transfer: AgentConfig["transfer"];
  readonly #trunks: Trunks;
  /** The channels that are accepted, by migration and name. */
  readonly #expected = new Map<MigrationId, Map<string, Expected>>();
  /** What this host has dialled; a migration has one trunk. */
  readonly #dialled = new Map<MigrationId, Promise<Trunk>>();

  /** @param transfer by what this host opens channels; it accepts either */
  constructor(cluster: Cluster, log: Logger, transfer: AgentConfig["transfer"]) {
    this.#cluster = cluster;
    this.#log = log;
    this.#transfer = transfer;
    this.#trunks = new Trunks(cluster, (stream, migration, peer) => this.#serveStream(stream, migration, peer));
  }

  /**
   * Opens a channel to `peer`. Throws HOST_UNKNOWN, PEER_UNREACHABLE, PEER_REFUSED if the peer expects no such channel from this host,
   * PROTOCOL if it does not speak our version.
   * @param signal cuts the channel whenever it is aborted; calls on the channel then throw its reason, as CANCELLED if it is not ours
   */
  async open(peer: HostName, migration: MigrationId, kind: ChannelKind, signal?: AbortSignal): Promise<Channel> {
    throwIfCancelled(signal);
    const member = this.#cluster.member(peer);
    let stream: Duplex;
    try {
      stream =
        this.#transfer === "trunk"
          ? await this.#openStream(member, migration, kind, signal)
          : (await openConnection(this.#cluster.membership, member, { migration, channel: kind.name }, signal)).socket;
    } catch (error) {
      throwIfCancelled(signal);
      throw error instanceof DmigrateError ? error : connectionLost(member, error);
    }
    const channel = new Channel(stream, { peer, migration, name: kind.name });
    if (signal !== undefined) cutWith(signal, channel, stream);
    return channel;
  }

  /** Ends the trunk that was dialled for a migration, once what is on it has ended. */
  hangUp(migration: MigrationId): void {
    const dialled = this.#dialled.get(migration);
    this.#dialled.delete(migration);
    dialled?.then(end, () => {}); // it could not be dialled
  }

  /**
   * Accepts channels `name` of a migration, from `peer` alone, until disposed of. Channels that are open then stay open; with the last one
   * of the migration its trunk ends, too.
   * @param admit throws what the opener is refused with
   */
  accept(peer: HostName, migration: MigrationId, name: string, handler: ChannelHandler, admit: () => void = () => {}): Disposable {
    const channels = this.#expected.get(migration) ?? new Map<string, Expected>();
    if (channels.has(name))
      throw new DmigrateError("INTERNAL", `Channel ${name} of ${migration} is accepted already; please report this as a bug`);
    this.#expected.set(migration, channels.set(name, { peer, handler, admit }));
    return {
      [Symbol.dispose]: () => {
        channels.delete(name);
        if (channels.size > 0 || !this.#expected.delete(migration)) return;
        for (const trunk of this.#trunks.arrived(migration)) end(trunk);
      },
    };
  }

  /** Serves a connection of the listener, from its hello on. */
  async serve(socket: TLSSocket): Promise<void> {
    const peer = this.#cluster.peerOf(socket);
    try {
      const offer = await readOffer(socket);
      const { migration } = offer;
      if ("trunk" in offer) return this.#trunks.join(socket, offer, this.#admitTrunk(migration, peer));
      const { handler, peer: expectedPeer } = this.#admit(migration, offer.channel, peer);
      socket.write(encodeAcceptance({}));
      void this.#handle(handler, new Channel(socket, { peer: expectedPeer, migration, name: offer.channel }));
    } catch (error) {
      const refusal = DmigrateError.from(error, "PROTOCOL");
      this.#log.warn({ from: socket.remoteAddress, peer, err: refusal }, "refused a connection");
      refuse(socket, refusal);
    }
  }

  async #openStream(
    member: Member,
    migration: MigrationId,
    { name, transferClass }: ChannelKind,
    signal?: AbortSignal,
  ): Promise<TrunkStream> {
    const trunk = await orAborted(this.#trunkTo(member, migration), signal);
    try {
      return await trunk.open(name, transferClass, signal);
    } catch (error) {
      throw error instanceof DmigrateError ? toldBy(member.name, error) : error;
    }
  }

  #trunkTo(member: Member, migration: MigrationId): Promise<Trunk> {
    const known = this.#dialled.get(migration);
    if (known !== undefined) return known;
    const dialling = this.#trunks.dial(member, migration);
    this.#dialled.set(migration, dialling);
    const forget = (): void => {
      if (this.#dialled.get(migration) === dialling) this.#dialled.delete(migration);
    };
    dialling.then(async (trunk) => {
      await trunk.over;
      forget();
    }, forget);
    return dialling;
  }

  #serveStream(stream: TrunkStream, migration: MigrationId, peer: HostName | undefined): void {
    const { name } = stream;
    try {
      const { handler, peer: expectedPeer } = this.#admit(migration, name, peer);
      stream.accept();
      void this.#handle(handler, new Channel(stream, { peer: expectedPeer, migration, name }));
    } catch (error) {
      const refusal = DmigrateError.from(error, "PROTOCOL");
      this.#log.warn({ peer, migration, channel: name, err: refusal }, "refused a channel");
      stream.refuse(refusal);
    }
  }

  /** Throws PEER_REFUSED, or what the channel is not admitted with. */
  #admit(migration: MigrationId, name: string, peer: HostName | undefined): Expected {
    const expected = this.#expected.get(migration)?.get(name);
    if (peer === undefined || expected?.peer !== peer) throw notExpected(`channel ${name}`, migration, peer);
    expected.admit();
    return expected;
  }

  /** Throws PEER_REFUSED. */
  #admitTrunk(migration: MigrationId, peer: HostName | undefined): HostName {
    const channels = [...(this.#expected.get(migration)?.values() ?? [])];
    if (peer === undefined || !channels.some((expected) => expected.peer === peer)) throw notExpected("trunk", migration, peer);
    return peer;
  }

  async #handle(handler: ChannelHandler, channel: Channel): Promise<void> {
    try {
      await handler(channel);
      channel.answer();
    } catch (error) {
      const failure = DmigrateError.from(error);
      this.#log.warn({ peer: channel.peer, migration: channel.migration, channel: channel.name, err: failure }, "a channel failed");
      channel.answer(failure);
    }
  }
}

function notExpected(what: string, migration: MigrationId, peer: HostName | undefined): DmigrateError {
  const from = peer ?? "a host that is not in the cluster";
  return new DmigrateError("PEER_REFUSED", `No ${what} of migration ${migration} is expected from ${from}; migrate again`);
}

function end(trunk: Trunk): void {
  trunk.close();
  const timer = setTimeout(() => trunk.destroy(), LINGER_MS);
  void trunk.over.then(() => clearTimeout(timer));
}

function throwIfCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw DmigrateError.from(signal.reason, "CANCELLED");
}

/** What the promise gives, unless the signal is aborted before. */
async function orAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return await promise;
  const aborted = Promise.withResolvers<never>();
  const abort = (): void => aborted.reject(signal.reason);
  signal.addEventListener("abort", abort);
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/** Cuts a channel when the signal is aborted. */
function cutWith(signal: AbortSignal, channel: Channel, stream: Duplex): void {
  const cut = (): void => channel.destroy(DmigrateError.from(signal.reason, "CANCELLED"));
  signal.addEventListener("abort", cut, { once: true });
  stream.once("close", () => signal.removeEventListener("abort", cut));
}
