/**
 * Channels: full-duplex byte streams between two hosts for what a migration moves in bulk. One TLS connection each, opened
 * with a hello that names migration and channel (src/wire/hello.ts).
 */
import type { TLSSocket } from "node:tls";
import type { HostName, MigrationId } from "../core/ids.ts";

/** Names a channel within its migration: 1 to 64 of `a-z`, `0-9`, `-`, `.`, `/`. */
export type ChannelName = string;

/** Bytes of content that crossed a channel so far, without framing. */
export interface ChannelCounts {
  readonly sent: number;
  readonly received: number;
}

/** One end of an open channel. Use it framed (`sendAll`, `receiveAll`, `close`) or raw, not both. */
export interface Channel {
  readonly peer: HostName;
  readonly migration: MigrationId;
  readonly name: ChannelName;
  readonly counts: ChannelCounts;
  /** Takes the connection over: from now on the caller alone reads, writes, counts and ends it. */
  raw(): TLSSocket;
  /**
   * Ends the channel. On the side that opened it: waits until the other side's handler ended, and throws what it threw
   * (as the same `DmigrateError`). TRANSFER_FAILED if the connection was cut instead.
   */
  close(): Promise<void>;
  /** Cuts the connection; the other side sees TRANSFER_FAILED. */
  destroy(reason?: Error): void;
}

/** Serves one channel. When it returns, the opener's `close` does; what it throws, the opener's calls throw. */
export type ChannelHandler = (channel: Channel) => Promise<void>;

/** Opens and accepts channels. */
export interface Link {
  /**
   * Opens a channel to `peer`. Throws HOST_UNKNOWN, PEER_UNREACHABLE, PEER_REFUSED if the peer expects no such channel from
   * this host, PROTOCOL if it does not speak our version.
   */
  open(peer: HostName, migration: MigrationId, name: ChannelName, signal?: AbortSignal): Promise<Channel>;
  /** Accepts channels `name` of a migration, from `peer` alone, until disposed of. Channels already open stay open. */
  accept(peer: HostName, migration: MigrationId, name: ChannelName, handler: ChannelHandler): Disposable;
}

/**
 * Sends one stream of bytes and its end; returns when all of it has left this process. A chunk may be reused by its owner once the
 * next one is asked for. Throws what `bytes` throws (the peer then sees its end of the stream fail with the same error), what
 * the peer's handler threw, or TRANSFER_FAILED. Several streams may follow each other on one channel.
 */
export async function sendAll(
  channel: Channel,
  bytes: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  signal?: AbortSignal,
): Promise<void> {
  throw new Error(`not sent: ${channel.name} ${String(bytes)} ${String(signal)}`);
}

/**
 * Receives one stream of bytes; ends at its definite end, and throws TRANSFER_FAILED if the connection is cut before it.
 * A chunk is a view valid until the next one is asked for. Nothing is read from the network while nobody asks.
 */
export function receiveAll(channel: Channel): AsyncIterable<Uint8Array> {
  throw new Error(`not received: ${channel.name}`);
}
