/**
 * Channels: full-duplex byte streams between two hosts, framed as in src/wire/frames.ts, so that a stream's end can be told from a
 * connection that was cut; or raw, for a protocol of its own.
 */
import { DmigrateError, messageOf, toldBy } from "../core/errors.ts";
import type { HostName, MigrationId } from "../core/ids.ts";
import type { ReadPages, TakePages, TrunkStream } from "../transfer/stream.ts";
import {
  DATA_BYTES_MAX,
  dataHeader,
  END_FRAME,
  failedFrame,
  FRAME_HEADER_BYTES,
  FrameDecoder,
  OK_FRAME,
  type FramePart,
} from "../wire/frames.ts";
import type { PageSpan } from "../wire/trunk-frames.ts";

/** Bytes of content that crossed a channel so far, without framing. */
export interface ChannelCounts {
  readonly sent: number;
  readonly received: number;
}

/** Which channel it is. */
export interface ChannelId {
  /** The host at the other end. */
  readonly peer: HostName;
  readonly migration: MigrationId;
  /** Names the channel within its migration; see `Hello`. */
  readonly name: string;
}

/** How many received bytes wait for their reader before the connection is left to fill up, */
const UNREAD_BYTES_MAX = 1 << 20;
/** and what each piece of them takes besides, and each end of a stream. */
const UNREAD_ITEM_BYTES = 128;
/** How many bytes of small chunks are sent at once. */
const GATHERED_BYTES_MAX = 1 << 16;
/** How long a channel that has ended here waits for the other side to see it. */
const LINGER_MS = 10_000;

/**
 * One end of an open channel. INVARIANTS:
 * 1. It is used framed or raw, not both.
 * 2. At most one `send` and one `receive` are under way at a time. Several streams may follow each other.
 * 3. Once it failed, whatever is called fails with the same error; data that arrived before is delivered first.
 */
export class Channel implements ChannelId, Disposable {
  readonly peer: HostName;
  readonly migration: MigrationId;
  readonly name: string;
  readonly #socket: TrunkStream;
  readonly #decoder = new FrameDecoder();
  #mode: "unused" | "framed" | "raw" = "unused";
  #sentBytes = 0;
  #receivedBytes = 0;
  /** What arrived and was not asked for yet. */
  readonly #unread: (Uint8Array | "end")[] = [];
  #unreadBytes = 0;
  /** Set when nobody will ask any more. */
  #discarding = false;
  /** The other side has done its part. */
  #peerDone = false;
  #failure: DmigrateError | undefined;
  /** Wakes who waits for something to arrive. */
  #arrival: (() => void) | undefined;
  /** Frames of small chunks that have not been written yet. */
  #gathered = Buffer.alloc(0);
  #gatheredBytes = 0;

  /** Takes over a stream that both sides have agreed on. */
  constructor(socket: TrunkStream, { peer, migration, name }: ChannelId) {
    this.#socket = socket;
    this.peer = peer;
    this.migration = migration;
    this.name = name;
    socket.on("error", (error) => this.#fail(this.#cut(error)));
    socket.on("close", () => this.#fail(this.#cut()));
  }

  get counts(): ChannelCounts {
    return { sent: this.#sentBytes + this.#socket.pageBytes, received: this.#receivedBytes };
  }

  /** Takes the connection over: from now on the caller alone reads, writes, counts and ends it. */
  raw(): TrunkStream {
    if (this.#mode === "framed")
      throw new DmigrateError("INTERNAL", `Channel ${this.name} is in use as a framed one; please report this as a bug`);
    this.#mode = "raw";
    return this.#socket;
  }

  /**
   * Sends bytes of a stream. They may be reused when it returns: the kernel has taken them or, if they are few, they have been
   * gathered with others to spare the cost of a write each.
   */
  async send(bytes: Uint8Array): Promise<void> {
    this.#beginFramed();
    if (this.#failure !== undefined) throw this.#failure;
    for (let at = 0; at < bytes.length; at += DATA_BYTES_MAX) {
      const payload = bytes.subarray(at, at + DATA_BYTES_MAX);
      if (payload.length > GATHERED_BYTES_MAX / 4) await this.#write(payload, dataHeader(payload.length));
      else await this.#gather(payload);
      this.#sentBytes += payload.length;
    }
  }

  /** Sends pages beside the stream (`TrunkStream.sendPages`); returns when all have left. What is sent afterwards arrives behind them. */
  async sendPages(spans: Iterable<PageSpan>, read: ReadPages): Promise<void> {
    this.#beginFramed();
    if (this.#failure !== undefined) throw this.#failure;
    this.#flush();
    await new Promise<void>((resolve, reject) =>
      this.#socket.sendPages(spans, read, (error) => (error ? reject(this.#failure ?? this.#cut(error)) : resolve())),
    );
  }

  /** @param take gets pages as they come, in no order; those of zeros without bytes. What it throws cuts the channel. */
  receivePages(take: TakePages): void {
    this.#socket.receivePages(take);
  }

  /** Ends the stream. */
  async sendEnd(): Promise<void> {
    await this.#write(END_FRAME);
  }

  /** Gives the stream up, and the channel with it. */
  async sendFailure(failure: DmigrateError): Promise<void> {
    await this.#write(failedFrame(failure));
  }

  /** The next bytes of the stream, valid until the next call, or its end. */
  async receive(): Promise<Uint8Array | "end"> {
    this.#beginFramed();
    for (;;) {
      const item = this.#unread.shift();
      if (item === undefined) {
        await this.#nextArrival();
        continue;
      }
      this.#unreadBytes -= weightOf(item);
      if (this.#socket.isPaused() && this.#unreadBytes < UNREAD_BYTES_MAX / 2) this.#socket.resume();
      return item;
    }
  }

  /** On the side that opened it: ends the channel once the other side's handler has ended. Throws what that threw, or TRANSFER_FAILED. */
  async close(): Promise<void> {
    this.#discard();
    // The other side may have answered and gone before this is written.
    await this.#write(OK_FRAME).catch((error: unknown) => {
      if (!this.#peerDone) throw error;
    });
    while (!this.#peerDone) await this.#nextArrival();
    this.#socket.end(() => this.#socket.destroy());
  }

  /** On the side that accepted it: tells how its handler ended, and leaves the rest to the other side. */
  answer(failure?: DmigrateError): void {
    if (this.#mode === "raw") return;
    this.#discard();
    if (this.#socket.destroyed) return;
    this.#flush();
    this.#socket.end(failure === undefined ? OK_FRAME : failedFrame(failure));
    const lingering = setTimeout(() => this.#socket.destroy(), LINGER_MS);
    this.#socket.once("close", () => clearTimeout(lingering));
  }

  /** On the side that accepted it: whoever waits here for something to arrive, or comes to, gets this error instead; `answer` is next. */
  giveUp(reason: DmigrateError): void {
    this.#failure ??= reason;
    this.#arrival?.();
  }

  /** Cuts the connection: the other side sees TRANSFER_FAILED; calls on this one throw `reason`. */
  destroy(reason?: Error): void {
    this.#fail(reason === undefined ? this.#cut() : DmigrateError.from(reason, "TRANSFER_FAILED"));
    this.#socket.destroy();
  }

  /** Cuts the connection unless it was closed or is somebody else's. */
  [Symbol.dispose](): void {
    if (this.#mode !== "raw" && !this.#peerDone) this.destroy();
  }

  #beginFramed(): void {
    if (this.#mode === "raw")
      throw new DmigrateError("INTERNAL", `Channel ${this.name} is in use as a raw one; please report this as a bug`);
    if (this.#mode === "framed") return;
    this.#mode = "framed";
    this.#socket.on("data", (chunk: Uint8Array) => this.#receive(chunk));
    this.#socket.on("end", () => this.#fail(this.#cut()));
  }

  #receive(chunk: Uint8Array): void {
    try {
      for (const part of this.#decoder.decode(chunk)) this.#take(part);
    } catch (error) {
      this.destroy(DmigrateError.from(error, "PROTOCOL"));
    }
    if (this.#unreadBytes >= UNREAD_BYTES_MAX) this.#socket.pause();
    this.#arrival?.();
  }

  #take(part: FramePart): void {
    switch (part.kind) {
      case "data":
        this.#receivedBytes += part.bytes.length;
        if (this.#discarding) return;
        return this.#keep(part.bytes);
      case "end":
        return this.#keep("end");
      case "ok":
        this.#peerDone = true;
        return;
      case "failed":
        this.#fail(toldBy(this.peer, part.error));
    }
  }

  #keep(item: Uint8Array | "end"): void {
    this.#unread.push(item);
    this.#unreadBytes += weightOf(item);
  }

  /** Returns when something may have arrived; throws if nothing more will. */
  async #nextArrival(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#peerDone)
      throw new DmigrateError("TRANSFER_FAILED", `Host ${this.peer} ended channel ${this.name} before the stream; see its agent's log`);
    await new Promise<void>((resolve) => {
      this.#arrival = resolve;
    });
  }

  #discard(): void {
    this.#beginFramed();
    this.#discarding = true;
    this.#unread.length = 0;
    this.#unreadBytes = 0;
    this.#socket.resume();
  }

  /** Copies a small payload behind others. They leave when they are enough, before anything else is written, or at the end of this turn. */
  async #gather(payload: Uint8Array): Promise<void> {
    if (this.#gatheredBytes + FRAME_HEADER_BYTES + payload.length > GATHERED_BYTES_MAX) await this.#write(this.#takeGathered());
    if (this.#gatheredBytes === 0) {
      if (this.#gathered.length === 0) this.#gathered = Buffer.allocUnsafeSlow(GATHERED_BYTES_MAX);
      setImmediate(() => this.#flush());
    }
    this.#gathered.set(dataHeader(payload.length), this.#gatheredBytes);
    this.#gathered.set(payload, this.#gatheredBytes + FRAME_HEADER_BYTES);
    this.#gatheredBytes += FRAME_HEADER_BYTES + payload.length;
  }

  #takeGathered(): Uint8Array {
    const gathered = this.#gathered.subarray(0, this.#gatheredBytes);
    this.#gathered = Buffer.alloc(0);
    this.#gatheredBytes = 0;
    return gathered;
  }

  #flush(): void {
    if (this.#gatheredBytes > 0 && !this.#socket.destroyed) this.#socket.write(this.#takeGathered());
  }

  /** Writes a frame, the header apart so that the payload is not copied; returns when the kernel has taken it. */
  async #write(bytes: Uint8Array, header?: Uint8Array): Promise<void> {
    this.#beginFramed();
    if (this.#failure !== undefined) throw this.#failure;
    this.#flush();
    try {
      await new Promise<void>((resolve, reject) => {
        this.#socket.cork(); // they share a frame of the trunk
        if (header !== undefined) this.#socket.write(header);
        this.#socket.write(bytes, (error) => (error ? reject(error) : resolve()));
        this.#socket.uncork();
      });
    } catch (error) {
      throw this.#failure ?? this.#cut(error);
    }
  }

  /** The first failure stays; one after the other side is done is none. Frees whoever waits for a write or for something to arrive. */
  #fail(failure: DmigrateError): void {
    if (this.#failure !== undefined || this.#peerDone) return;
    this.#failure = failure;
    this.#socket.destroy();
    this.#arrival?.();
  }

  #cut(error?: unknown): DmigrateError {
    const reason = error === undefined ? "the connection was cut" : messageOf(error);
    return new DmigrateError(
      "TRANSFER_FAILED",
      `Channel ${this.name} to host ${this.peer} ended early: ${reason}; check the network between the hosts and both agents' logs`,
      error,
    );
  }
}

function weightOf(item: Uint8Array | "end"): number {
  return UNREAD_ITEM_BYTES + (item === "end" ? 0 : item.length);
}

/**
 * Sends one stream of bytes and its end; returns when all of it has left this process. A chunk may be reused by its owner once
 * the next one is asked for. Throws what `bytes` throws (the other side's `receiveAll` then throws the same), what the other
 * side failed with, or TRANSFER_FAILED.
 */
export async function sendAll(channel: Channel, bytes: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<void> {
  await sendStream(channel, async () => {
    for await (const chunk of bytes) await channel.send(chunk);
  });
}

/** Sends one stream, by whatever `send` does, and its end. Throws what `send` throws, as the other side then does. */
export async function sendStream(channel: Channel, send: () => Promise<void>): Promise<void> {
  try {
    await send();
  } catch (error) {
    // If it is the channel that failed, this fails likewise.
    await channel.sendFailure(DmigrateError.from(error));
    throw error;
  }
  await channel.sendEnd();
}

/**
 * Receives one stream of bytes; ends at its definite end. A chunk is valid until the next one is asked for. Throws what the other
 * side failed with, or TRANSFER_FAILED if the connection is cut before the end. At most a megabyte waits here for its reader.
 */
export async function* receiveAll(channel: Channel): AsyncGenerator<Uint8Array, void> {
  for (;;) {
    const item = await channel.receive();
    if (item === "end") return;
    yield item;
  }
}
