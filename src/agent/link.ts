/**
 * The trunks of this host's migrations, and the channels on them: a target dials one trunk for a migration, its source opens channels.
 */
import type { TLSSocket } from "node:tls";
import type { Logger } from "pino";
import { DmigrateError, toldBy } from "../core/errors.ts";
import type { HostName, MigrationId } from "../core/ids.ts";
import { LinkShares } from "../core/link-shares.ts";
import type { TransferOrder } from "../core/schedule.ts";
import type { TrunkStream } from "../transfer/stream.ts";
import { Trunk } from "../transfer/trunk.ts";
import { Channel } from "./channel.ts";
import type { ChannelKind } from "./channels.ts";
import type { Cluster } from "./cluster.ts";
import { connectionLost } from "./dial.ts";
import { readOffer, refuse } from "./handshake.ts";
import { ArrivingTrunks, dialTrunk, type TrunkPlan } from "./trunks.ts";

export { type Channel, receiveAll, sendAll, sendStream } from "./channel.ts";

/** Serves one channel. When it returns, the opener's `close` does; what it throws, the opener's calls throw. */
export type ChannelHandler = (channel: Channel) => Promise<void>;

/** A trunk that a target has dialled. */
export interface Dialled extends Disposable {
  /** Fulfilled when it is over: undefined if it was closed, else why it broke. */
  readonly over: Promise<Error | undefined>;
  /** From now on the loss of a connection is noticed within seconds, though nothing is sent by it. */
  readonly watch: () => void;
}

/** A trunk that a target is to dial, and to dial again if it breaks. */
interface ExpectedTrunk {
  readonly peer: HostName;
  /** The first one. */
  readonly arrived: PromiseWithResolvers<Trunk>;
  /** What may be sent by it. */
  readonly bytesPerSecond: number | undefined;
  readonly plan: TrunkPlan | undefined;
  last: Trunk | undefined;
  /** How many have come. */
  count: number;
  /** Fulfilled when another one comes. */
  another: PromiseWithResolvers<void>;
}

interface ExpectedChannel {
  readonly peer: HostName;
  readonly handler: ChannelHandler;
  readonly admit: () => void;
}

/** How long a trunk that is to end may take for what is still on it. */
const LINGER_MS = 10_000;

export class Link {
  readonly #cluster: Cluster;
  readonly #log: Logger;
  readonly #order: TransferOrder;
  readonly #arriving: ArrivingTrunks;
  /** Of the trunks by which this host sends. */
  readonly #shares = new LinkShares();
  readonly #expectedTrunks = new Map<MigrationId, ExpectedTrunk>();
  /** The channels that are accepted, by migration and name. */
  readonly #expectedChannels = new Map<MigrationId, Map<string, ExpectedChannel>>();

  constructor(cluster: Cluster, log: Logger, order: TransferOrder = "priority") {
    this.#cluster = cluster;
    this.#log = log;
    this.#order = order;
    this.#arriving = new ArrivingTrunks(order);
  }

  /**
   * On a source: lets `peer`, the target, dial a trunk for a migration, until disposed of: that ends it, once what is on it has ended.
   * @param bytesPerSecond what may be sent by it that nobody waits for
   * @param plan of how it is sent
   */
  expect(peer: HostName, migration: MigrationId, bytesPerSecond?: number, plan?: TrunkPlan): Disposable {
    const arrived = Promise.withResolvers<Trunk>();
    arrived.promise.catch(() => {}); // told to who opens a channel
    const expected: ExpectedTrunk = { peer, arrived, bytesPerSecond, plan, last: undefined, count: 0, another: Promise.withResolvers() };
    this.#expectedTrunks.set(migration, expected);
    return {
      [Symbol.dispose]: () => {
        this.#expectedTrunks.delete(migration);
        arrived.reject(notExpected("trunk", migration, peer)); // nothing, if it has come
        if (expected.last !== undefined) end(expected.last);
      },
    };
  }

  /**
   * On a source: returns how many trunks the target has dialled for a migration that is expected, once that is more than so many. Throws
   * the signal's reason.
   */
  async dialled(migration: MigrationId, more: number, signal: AbortSignal): Promise<number> {
    for (;;) {
      const expected = this.#expectedTrunks.get(migration);
      if (expected === undefined || expected.count > more) return expected?.count ?? more;
      await orAborted(expected.another.promise, signal);
    }
  }

  /**
   * On a target: dials a trunk to `peer`, the source; disposing of it ends it. Throws HOST_UNKNOWN, PEER_UNREACHABLE, PEER_REFUSED,
   * PROTOCOL.
   */
  async dial(peer: HostName, migration: MigrationId): Promise<Dialled> {
    const member = this.#cluster.member(peer);
    const trunk = new Trunk((stream) => this.#serveStream(stream, migration, peer), this.#order);
    const watch = await dialTrunk(trunk, this.#cluster.membership, member, migration);
    return { over: trunk.over, watch, [Symbol.dispose]: () => end(trunk) };
  }

  /**
   * Opens a channel to `peer`, once it has dialled the trunk of the migration. Throws PEER_UNREACHABLE, PEER_REFUSED if the peer expects no
   * such channel from this host.
   * @param signal cuts the channel whenever it is aborted; calls on the channel then throw its reason, as CANCELLED if it is not ours
   */
  async open(peer: HostName, migration: MigrationId, { name, transferClass }: ChannelKind, signal?: AbortSignal): Promise<Channel> {
    throwIfCancelled(signal);
    const member = this.#cluster.member(peer);
    const expected = this.#expectedTrunks.get(migration);
    if (expected?.peer !== peer)
      throw new DmigrateError(
        "INTERNAL",
        `Channel ${name} was opened to ${peer}, whose trunk is not expected; please report this as a bug`,
      );
    let stream: TrunkStream;
    try {
      const trunk = expected.last ?? (await orAborted(expected.arrived.promise, signal));
      stream = await trunk.open(name, transferClass, signal);
    } catch (error) {
      throwIfCancelled(signal);
      throw error instanceof DmigrateError ? toldBy(member.name, error) : connectionLost(member, error);
    }
    const channel = new Channel(stream, { peer, migration, name });
    if (signal !== undefined) cutWith(signal, channel, stream);
    return channel;
  }

  /**
   * Accepts channels `name` of a migration, from `peer` alone, until disposed of. Channels that are open then stay open.
   * @param admit throws what the opener is refused with
   */
  accept(peer: HostName, migration: MigrationId, name: string, handler: ChannelHandler, admit: () => void = () => {}): Disposable {
    const channels = this.#expectedChannels.get(migration) ?? new Map<string, ExpectedChannel>();
    if (channels.has(name))
      throw new DmigrateError("INTERNAL", `Channel ${name} of ${migration} is accepted already; please report this as a bug`);
    this.#expectedChannels.set(migration, channels.set(name, { peer, handler, admit }));
    return {
      [Symbol.dispose]: () => {
        channels.delete(name);
        if (channels.size === 0) this.#expectedChannels.delete(migration);
      },
    };
  }

  /** Serves a connection of the listener, from its hello on. */
  async serve(socket: TLSSocket): Promise<void> {
    const peer = this.#cluster.peerOf(socket);
    try {
      const offer = await readOffer(socket);
      const { migration } = offer;
      const expected = this.#expectedTrunks.get(migration);
      if (peer === undefined || expected?.peer !== peer) throw notExpected("trunk", migration, peer);
      this.#arrive(expected, this.#arriving.join(socket, offer, peer, expected.plan));
    } catch (error) {
      const refusal = DmigrateError.from(error, "PROTOCOL");
      this.#log.warn({ from: socket.remoteAddress, peer, err: refusal }, "refused a connection");
      refuse(socket, refusal);
    }
  }

  /** A connection of a trunk has come. */
  #arrive(expected: ExpectedTrunk, trunk: Trunk): void {
    const { last, another, bytesPerSecond, peer } = expected;
    if (trunk === last) return;
    if (bytesPerSecond !== undefined) trunk.limitRate(bytesPerSecond);
    trunk.shareWith(this.#shares, peer);
    expected.last = trunk;
    expected.arrived.resolve(trunk);
    last?.destroy(new Error("its target has dialled again"));
    expected.count += 1;
    expected.another = Promise.withResolvers();
    another.resolve();
  }

  #serveStream(stream: TrunkStream, migration: MigrationId, peer: HostName): void {
    const { name } = stream;
    try {
      const expected = this.#expectedChannels.get(migration)?.get(name);
      if (expected?.peer !== peer) throw notExpected(`channel ${name}`, migration, peer);
      expected.admit();
      stream.accept();
      void this.#handle(expected.handler, new Channel(stream, { peer, migration, name }));
    } catch (error) {
      const refusal = DmigrateError.from(error, "PROTOCOL");
      this.#log.warn({ peer, migration, channel: name, err: refusal }, "refused a channel");
      stream.refuse(refusal);
    }
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
function cutWith(signal: AbortSignal, channel: Channel, stream: TrunkStream): void {
  const cut = (): void => channel.destroy(DmigrateError.from(signal.reason, "CANCELLED"));
  signal.addEventListener("abort", cut, { once: true });
  stream.once("close", () => signal.removeEventListener("abort", cut));
}
