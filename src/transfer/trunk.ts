/**
 * A trunk: the few connections between source and target over which everything of one migration crosses, as streams (stream.ts) that
 * share them by class (src/core/schedule.ts). One connection is reserved for what somebody waits for; on the others there is never more
 * than a batch of some frames with the kernel before it is asked again who is next.
 *
 * It lives as long as all of its connections do: when one breaks, so do all streams.
 */
import type { Duplex } from "node:stream";
import { crc32 } from "node:zlib";
import { DmigrateError } from "../core/errors.ts";
import type { LinkShare, LinkShares } from "../core/link-shares.ts";
import { RateLimit } from "../core/rate-limit.ts";
import { isStrict, Schedule, type Lane, type Sent, type TransferClass, type TransferOrder } from "../core/schedule.ts";
import { SAME_RELEASE } from "../wire/failure.ts";
import { decodeTrunkFrames, TRUNK_FRAME_BYTES_SHORT, writeTrunkFrame, type PlainFrame, type TrunkFrame } from "../wire/trunk-frames.ts";
import { FRAME_CODEC, Packer } from "./packer.ts";
import { Pile } from "./pile.ts";
import { TrunkStream, type OutgoingFrame, type StreamOwner } from "./stream.ts";

/** Streams that may be open at a time. */
const STREAMS_MAX = 64;
/** So much is written at once: what comes to be urgent waits for it, and each frame and each write costs some microseconds. */
const BATCH_BYTES = { min: TRUNK_FRAME_BYTES_SHORT, max: 8 * TRUNK_FRAME_BYTES_SHORT };
/** A connection that takes a batch quicker than this gets a larger one next. */
const QUICK_MS = 0.25;

/**
 * How the bytes of a connection are received: has a function called with what there is, valid during the call, that says how much of it it
 * has used and gets the rest again with what follows it.
 */
export type Receive = (use: (bytes: Uint8Array) => number) => void;

interface Connection {
  readonly socket: Duplex;
  readonly lane: Lane;
  /** What is on its way to the kernel: frames, one behind the other. */
  readonly batch: Uint8Array;
  batchBytes: number;
  isBusy: boolean;
}

export class Trunk {
  /** Fulfilled when it is over: undefined if it was closed, else why it broke. */
  readonly over: Promise<Error | undefined>;
  readonly #over = Promise.withResolvers<Error | undefined>();
  readonly #opened: (stream: TrunkStream) => void;
  readonly #connections: Connection[] = [];
  readonly #streams = new Map<number, TrunkStream>();
  readonly #schedule = new Schedule<TrunkStream>();
  /** What opens streams and gives credit: it crosses in this order, by the first connection. */
  readonly #control: PlainFrame[] = [];
  readonly #owner: StreamOwner;
  readonly #order: TransferOrder;
  #limit: RateLimit | undefined;
  #share: LinkShare | undefined;
  #packer: Packer | undefined;
  #heldBack: NodeJS.Timeout | undefined;
  #lastStream = 0;
  #isClosing = false;
  #isOver = false;

  /** @param opened serves a stream that the other side opened: accepts or refuses it */
  constructor(opened: (stream: TrunkStream) => void, order: TransferOrder = "priority") {
    this.over = this.#over.promise;
    this.#opened = opened;
    this.#order = order;
    this.#owner = {
      ready: (stream) => {
        this.#schedule.add(stream, order === "fifo" ? "memory" : stream.transferClass);
        this.#pump();
      },
      control: (frame) => {
        this.#control.push(frame);
        this.#pump();
      },
      over: ({ id }) => void this.#streams.delete(id),
      broken: (reason) => this.destroy(reason),
    };
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  get #isInUse(): boolean {
    return [...this.#streams.values()].some(({ destroyed }) => !destroyed);
  }

  /** Takes a connection over, on which only frames come from now on. The first one carries what opens streams. */
  join(socket: Duplex, lane: Lane, receive: Receive = inPiles(socket)): void {
    const batch = new Uint8Array(Buffer.allocUnsafeSlow(BATCH_BYTES.max).buffer);
    this.#connections.push({ socket, lane, batch, batchBytes: BATCH_BYTES.min, isBusy: false });
    receive((bytes) => {
      try {
        return decodeTrunkFrames(bytes, FRAME_CODEC, (frame) => this.#take(frame));
      } catch (error) {
        this.destroy(DmigrateError.from(error, "PROTOCOL"));
        return bytes.length;
      }
    });
    socket.on("error", (error) => this.destroy(error));
    socket.on("close", () => this.destroy(this.#isInUse ? new Error("the connection was cut") : undefined));
    if (this.#isOver) socket.destroy();
    else this.#pump();
  }

  /**
   * Opens a stream. Throws what the other side refuses it with, or what ends it before.
   * @param signal gives it up before it is accepted; afterwards it means nothing
   */
  async open(name: string, transferClass: TransferClass, signal?: AbortSignal): Promise<TrunkStream> {
    this.#lastStream += 1;
    const stream = this.#add(TrunkStream.opening(this.#owner, this.#lastStream, name, transferClass));
    stream.open();
    if (this.#isOver) stream.destroy((await this.over) ?? new Error("the connection was closed"));
    const giveUp = (): void => void stream.destroy(new Error("it was given up"));
    if (signal?.aborted === true) giveUp();
    signal?.addEventListener("abort", giveUp);
    try {
      await stream.accepted;
      return stream;
    } finally {
      signal?.removeEventListener("abort", giveUp);
    }
  }

  /** From now on no more is sent in a second, but for what somebody waits for. */
  limitRate(bytesPerSecond: number): void {
    this.#limit = new RateLimit(bytesPerSecond);
  }

  /** From now on it shares with other trunks of this host: those to the same `peer` send as much as each other. */
  shareWith(others: LinkShares, peer: string): void {
    const share = others.join(peer, () => setImmediate(() => this.#pump()));
    this.#share = share;
    void this.over.then(() => share.leave(performance.now()));
  }

  /**
   * The other side can unpack: what is worth it is packed from now on.
   * @param hasTime whether there is processor time for it at the moment
   */
  mayPack(hasTime: () => boolean = () => true): void {
    this.#packer = new Packer(hasTime);
  }

  /** Ends it as soon as its streams have ended, and what they wrote has left. */
  close(): void {
    this.#isClosing = true;
    this.#pump();
  }

  /** Cuts it, and all its streams. */
  destroy(reason?: Error): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#heldBack);
    for (const { socket } of this.#connections) socket.destroy();
    for (const stream of this.#streams.values()) stream.destroy(reason ?? new Error("the connection was closed"));
    this.#over.resolve(reason);
  }

  #add(stream: TrunkStream): TrunkStream {
    stream.on("error", () => {}); // told to its users, if it has any
    stream.once("close", () => this.#pump()); // it may have been the last
    this.#streams.set(stream.id, stream);
    return stream;
  }

  #take({ stream: id, place, content }: TrunkFrame): void {
    if (content.kind === "open") return this.#welcome(id, content.name, content.transferClass);
    if (id > this.#lastStream)
      throw new DmigrateError("PROTOCOL", `An agent sent a frame of stream ${id}, which is not open; ${SAME_RELEASE}`);
    this.#streams.get(id)?.receive(place, content); // of one that is over here, the other side does not know yet
  }

  #welcome(id: number, name: string, transferClass: TransferClass): void {
    const isFull = this.#streams.size >= STREAMS_MAX || this.#schedule.readyCount >= STREAMS_MAX; // of some only a refusal is left
    if (id !== this.#lastStream + 1 || isFull)
      throw new DmigrateError("PROTOCOL", `An agent opened stream ${id} out of turn, or too many; ${SAME_RELEASE}`);
    this.#lastStream = id;
    this.#opened(this.#add(TrunkStream.opened(this.#owner, id, name, transferClass)));
  }

  /** Gives each connection that is free its next frames. */
  #pump(): void {
    if (this.#isOver) return;
    for (const connection of this.#connections) if (!connection.isBusy) this.#sendNext(connection);
    this.#share?.ready(this.#schedule.hasShared && this.#limitMs === 0, performance.now());
    const isIdle = !this.#isInUse && this.#connections.every(({ isBusy }) => !isBusy);
    if (this.#isClosing && isIdle) for (const { socket } of this.#connections) socket.end();
  }

  #sendNext(connection: Connection): void {
    const { socket, batch, batchBytes } = connection;
    const written: (() => void)[] = [];
    let byteCount = 0;
    while (byteCount + TRUNK_FRAME_BYTES_SHORT <= batchBytes) {
      const frame = this.#writeFrame(connection, this.#laneOf(connection), batch.subarray(byteCount, batchBytes));
      if (frame === undefined) break;
      byteCount += frame.byteCount;
      written.push(frame.written);
    }
    if (byteCount === 0) return;
    connection.isBusy = true;
    const beganAtMs = performance.now();
    this.#limit?.sent(byteCount, beganAtMs);
    socket.write(batch.subarray(0, byteCount), (error) => {
      connection.isBusy = false;
      if (error !== undefined && error !== null) return;
      const busyMs = performance.now() - beganAtMs;
      const isQuick = busyMs < QUICK_MS;
      this.#packer?.sent(byteCount, busyMs);
      connection.batchBytes = isQuick ? Math.min(BATCH_BYTES.max, batchBytes * 2) : Math.max(BATCH_BYTES.min, batchBytes / 2);
      for (const each of written) each();
      setImmediate(() => this.#pump()); // after what has arrived meanwhile
    });
  }

  /**
   * What it may carry now. One of the others carries what the reserved one does as long as the limit to the rate is reached, and nothing
   * that nobody waits for while it is the turn of another trunk.
   */
  #laneOf({ lane }: Connection): Lane {
    const own = this.#order === "fifo" ? "shared" : lane;
    if (own === "reserved") return own;
    const limitMs = this.#limitMs;
    const waitMs = this.#schedule.hasShared ? (this.#share?.waitMs(performance.now()) ?? 0) : 0;
    if (limitMs > 0 || waitMs > 0) this.#pumpIn(Math.max(limitMs, waitMs));
    return limitMs > 0 ? "reserved" : waitMs > 0 ? "strict" : own;
  }

  /** For how long the limit to the rate keeps it from sending what nobody waits for. */
  get #limitMs(): number {
    return this.#limit?.waitMs(performance.now()) ?? 0;
  }

  #pumpIn(ms: number): void {
    clearTimeout(this.#heldBack);
    this.#heldBack = setTimeout(() => this.#pump(), ms);
  }

  /** Undefined if there is nothing to send now. */
  #writeFrame(connection: Connection, lane: Lane, into: Uint8Array): OutgoingFrame | undefined {
    const control = connection === this.#connections[0] ? this.#control.shift() : undefined;
    if (control !== undefined) return { byteCount: writeTrunkFrame(into, control, crc32), written: () => {} };
    const written: OutgoingFrame[] = [];
    const write = (stream: TrunkStream): Sent => {
      const frame = stream.writeFrame(into);
      const byteCount =
        frame === undefined ? 0 : (this.#packer?.pack(stream.transferClass, into.subarray(0, frame.byteCount)) ?? frame.byteCount);
      if (frame !== undefined) {
        written.push({ ...frame, byteCount });
        this.#share?.sent(byteCount, this.#order === "priority" && isStrict(stream.transferClass), performance.now());
      }
      return { byteCount, hasMore: stream.isReady };
    };
    while (written.length === 0 && this.#schedule.next(lane, write)) {
      // It had nothing after all: who is next?
    }
    return written[0];
  }
}

/** Receives what a socket reads by itself. */
function inPiles(socket: Duplex): Receive {
  return (use) => {
    const pile = new Pile(use);
    socket.on("data", (chunk: Buffer) => pile.add(chunk));
  };
}
