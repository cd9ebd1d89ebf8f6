/**
 * Opens channels to other hosts and accepts theirs: one TLS connection each, which begins with a hello that names migration and
 * channel (src/wire/hello.ts) and its answer.
 */
import type { TLSSocket } from "node:tls";
import type { Logger } from "pino";
import { DmigrateError, toldBy } from "../core/errors.ts";
import type { HostName, MigrationId } from "../core/ids.ts";
import { FrameDecoder, failedFrame, OK_FRAME } from "../wire/frames.ts";
import { decodeHelloNames, decodeHelloPrefix, encodeHello, HELLO_PREFIX_BYTES, type Hello } from "../wire/hello.ts";
import { Channel } from "./channel.ts";
import type { Cluster } from "./cluster.ts";
import { ALPN, connected, connectionLost, dialMember } from "./dial.ts";

export { type Channel, receiveAll, sendAll } from "./channel.ts";

/** Serves one channel. When it returns, the opener's `close` does; what it throws, the opener's calls throw. */
export type ChannelHandler = (channel: Channel) => Promise<void>;

interface Expected {
  readonly peer: HostName;
  readonly handler: ChannelHandler;
  readonly admit: () => void;
}

const HELLO_TIMEOUT_MS = 10_000;

export class Link {
  readonly #cluster: Cluster;
  readonly #log: Logger;
  /** By migration and name. */
  readonly #expected = new Map<string, Expected>();

  constructor(cluster: Cluster, log: Logger) {
    this.#cluster = cluster;
    this.#log = log;
  }

  /**
   * Opens a channel to `peer`. Throws HOST_UNKNOWN, PEER_UNREACHABLE, PEER_REFUSED if the peer expects no such channel from
   * this host, PROTOCOL if it does not speak our version.
   * @param signal cuts the channel whenever it is aborted; calls on the channel then throw its reason, as CANCELLED if it is not ours
   */
  async open(peer: HostName, migration: MigrationId, name: string, signal?: AbortSignal): Promise<Channel> {
    throwIfCancelled(signal);
    const member = this.#cluster.member(peer);
    const socket = dialMember(this.#cluster.membership, member, ALPN.channels);
    const cut = (): unknown => socket.destroy();
    signal?.addEventListener("abort", cut);
    try {
      await connected(socket);
      socket.write(encodeHello({ migration, channel: name }));
      await readAnswer(socket, peer);
    } catch (error) {
      socket.destroy();
      throwIfCancelled(signal);
      throw error instanceof DmigrateError ? error : connectionLost(member, error);
    } finally {
      signal?.removeEventListener("abort", cut);
    }
    const channel = new Channel(socket, { peer, migration, name });
    if (signal !== undefined) cutWith(signal, channel, socket);
    return channel;
  }

  /**
   * Accepts channels `name` of a migration, from `peer` alone, until disposed of. Channels that are open then stay open.
   * @param admit throws what the opener is refused with
   */
  accept(peer: HostName, migration: MigrationId, name: string, handler: ChannelHandler, admit: () => void = () => {}): Disposable {
    const key = `${migration} ${name}`;
    if (this.#expected.has(key))
      throw new DmigrateError("INTERNAL", `Channel ${name} of ${migration} is accepted already; please report this as a bug`);
    this.#expected.set(key, { peer, handler, admit });
    return { [Symbol.dispose]: () => void this.#expected.delete(key) };
  }

  /** Serves a connection of the listener, from its hello on. */
  async serve(socket: TLSSocket): Promise<void> {
    const peer = this.#cluster.peerOf(socket);
    let opened: { readonly channel: Channel; readonly handler: ChannelHandler };
    try {
      opened = this.#opened(socket, peer, await readHello(socket));
    } catch (error) {
      const refusal = DmigrateError.from(error, "PROTOCOL");
      this.#log.warn({ from: socket.remoteAddress, peer, err: refusal }, "refused a channel");
      socket.end(failedFrame(refusal), () => socket.destroy());
      return;
    }
    const { channel, handler } = opened;
    socket.write(OK_FRAME);
    try {
      await handler(channel);
      channel.answer();
    } catch (error) {
      const failure = DmigrateError.from(error);
      this.#log.warn({ peer, migration: channel.migration, channel: channel.name, err: failure }, "a channel failed");
      channel.answer(failure);
    }
  }

  #opened(socket: TLSSocket, peer: HostName | undefined, hello: Hello): { channel: Channel; handler: ChannelHandler } {
    const { migration, channel: name } = hello;
    const expected = this.#expected.get(`${migration} ${name}`);
    if (peer === undefined || expected?.peer !== peer) {
      const asked = peer ?? "a host that is not in the cluster";
      throw new DmigrateError("PEER_REFUSED", `No channel ${name} of migration ${migration} is expected from ${asked}; migrate again`);
    }
    expected.admit();
    return { channel: new Channel(socket, { peer, migration, name }), handler: expected.handler };
  }
}

function throwIfCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw DmigrateError.from(signal.reason, "CANCELLED");
}

/** Cuts a channel when the signal is aborted. */
function cutWith(signal: AbortSignal, channel: Channel, socket: TLSSocket): void {
  const cut = (): void => channel.destroy(DmigrateError.from(signal.reason, "CANCELLED"));
  signal.addEventListener("abort", cut, { once: true });
  socket.once("close", () => signal.removeEventListener("abort", cut));
}

async function readHello(socket: TLSSocket): Promise<Hello> {
  return await inTime(socket, async () => {
    const prefix = decodeHelloPrefix(await readExactly(socket, HELLO_PREFIX_BYTES));
    return decodeHelloNames(prefix, await readExactly(socket, prefix.idBytes + prefix.channelBytes));
  });
}

/** Reads the frame that answers a hello, and not a byte more. Throws what the peer refused it with. */
async function readAnswer(socket: TLSSocket, peer: HostName): Promise<void> {
  await inTime(socket, async () => {
    const decoder = new FrameDecoder();
    for (;;) {
      const [part] = decoder.decode(await readExactly(socket, decoder.missingBytes));
      if (part?.kind === "ok") return;
      if (part?.kind === "failed") throw toldBy(peer, part.error);
      if (part !== undefined)
        throw new DmigrateError("PROTOCOL", "The peer did not answer the hello of a channel; update both to the same release");
    }
  });
}

/** Does an exchange of hellos; destroys the socket if it takes too long. */
async function inTime<T>(socket: TLSSocket, exchange: () => Promise<T>): Promise<T> {
  const timer = setTimeout(() => socket.destroy(new Error(`no hello within ${HELLO_TIMEOUT_MS / 1000} s`)), HELLO_TIMEOUT_MS);
  try {
    return await exchange();
  } finally {
    clearTimeout(timer);
  }
}

/** Reads that many bytes and leaves the rest in the socket. Throws if the connection ends before. */
async function readExactly(socket: TLSSocket, byteCount: number): Promise<Uint8Array> {
  for (;;) {
    const bytes = socket.read(byteCount) as Buffer | null; // sockets without an encoding give buffers
    if (bytes !== null && bytes.length === byteCount) return bytes;
    if (bytes !== null || socket.readableEnded || socket.destroyed)
      throw socket.errored ?? new Error("the connection was closed in the hello");
    await new Promise<void>((resolve) => {
      const events = ["readable", "end", "close"];
      const woken = (): void => {
        for (const event of events) socket.off(event, woken);
        resolve();
      };
      for (const event of events) socket.on(event, woken);
    });
  }
}
