/**
 * One of the streams that share a trunk's connections: for its users a plain duplex stream of bytes, as a connection of its own would be.
 *
 * Its frames leave when the trunk's schedule says so, over whichever connection is free, and are put into their order here. It sends no
 * more than its receiver has room for. Besides, pages of memory cross by it: each frame of them as soon as it is its turn, in no order, and
 * read only then. Destroyed before it has ended, it looks to the other side like a connection that was cut.
 */
import { Duplex } from "node:stream";
import { crc32 } from "node:zlib";
import { DmigrateError } from "../core/errors.ts";
import type { TransferClass } from "../core/schedule.ts";
import {
  FRAME_PAGES_MAX,
  PAGE_BYTES,
  pageRuns,
  PAGES_OFFSET,
  sealPages,
  TRUNK_DATA_BYTES_MAX,
  writeTrunkFrame,
  type FrameContent,
  type FramePages,
  type PageSpan,
  type PlainContent,
  type PlainFrame,
} from "../wire/trunk-frames.ts";

/** So much may be on its way to a receiver, or wait there for its reader. */
export const WINDOW_BYTES = 4 << 20;
/** So many frames may have overtaken one that is on a slower connection. */
const EARLY_FRAMES_MAX = 1 << 16;

/** The trunk, as a stream sees it. */
export interface StreamOwner {
  /** It has something to send. */
  ready(stream: TrunkStream): void;
  /** A frame is to leave before all others. */
  control(frame: PlainFrame): void;
  /** Nothing more comes from it or for it. */
  over(stream: TrunkStream): void;
  /** What the other side sends can't be. */
  broken(reason: Error): void;
}

/** A frame on its way out. */
export interface OutgoingFrame {
  readonly byteCount: number;
  /** To be called when the kernel has it. */
  readonly written: () => void;
}

/**
 * Puts pages where they belong in their frame. Returns how many it could, from the first one on: the others do not cross. What it throws
 * destroys the stream.
 */
export type ReadPages = (span: PageSpan, into: Uint8Array) => number;

/** Gets pages; their bytes are valid during the call, and undefined if they are zeros. */
export type TakePages = (span: PageSpan, bytes: Uint8Array | undefined) => void;

type Done = (error?: Error | null) => void;

/** What waits for the frames before it; pages that came early have been taken. */
type OrderedContent = Exclude<PlainContent, { kind: "credit" }> | { readonly kind: "taken" };

/** What waits to be sent, in this order. It is done when the kernel has all of it: frames of it may be on several connections. */
type Outgoing =
  | { readonly kind: "data"; readonly chunks: Uint8Array[]; framesOnTheWay: number; readonly done: Done }
  | { readonly kind: "control"; readonly content: PlainContent; readonly done: Done }
  | {
      readonly kind: "pages";
      /** The next ones; undefined if there are none any more. */
      span: PageSpan | undefined;
      readonly others: Iterator<PageSpan>;
      readonly read: ReadPages;
      framesOnTheWay: number;
      readonly done: Done;
    };

export class TrunkStream extends Duplex {
  readonly id: number;
  readonly name: string;
  readonly transferClass: TransferClass;
  /** Fulfilled when the other side has accepted it; rejected with what it refused it with, or with the end of the stream. */
  readonly accepted: Promise<void>;
  readonly #acceptance = Promise.withResolvers<void>();
  readonly #owner: StreamOwner;
  readonly #outgoing: Outgoing[] = [];
  /** What was given to `_write` and is not done yet. */
  readonly #undone = new Set<Outgoing>();
  #isAccepted = false;
  #sentFrames = 0;
  #sentBytes = 0;
  #allowedBytes = WINDOW_BYTES;
  readonly #early = new Map<number, OrderedContent>();
  #nextPlace = 0;
  #arrivedBytes = 0;
  #deliveredBytes = 0;
  #takePages: TakePages | undefined;
  #pageBytes = 0;
  #wasReset = false;
  #toldBytes = 0;
  #hasEnded = { here: false, there: false };
  /** Neither side counts on anything of the other any more. */
  get #isCut(): boolean {
    return this.#hasEnded.here && this.#hasEnded.there && this.destroyed;
  }

  private constructor(owner: StreamOwner, id: number, name: string, transferClass: TransferClass) {
    super({ allowHalfOpen: false, readableHighWaterMark: WINDOW_BYTES, writableHighWaterMark: TRUNK_DATA_BYTES_MAX });
    this.#owner = owner;
    this.id = id;
    this.name = name;
    this.transferClass = transferClass;
    this.accepted = this.#acceptance.promise;
    this.accepted.catch(() => {}); // told to whoever opened it
  }

  /** One that `open` is to be called of. */
  static opening(owner: StreamOwner, id: number, name: string, transferClass: TransferClass): TrunkStream {
    return new TrunkStream(owner, id, name, transferClass);
  }

  /** What the other side has asked for: to be accepted or refused. */
  static opened(owner: StreamOwner, id: number, name: string, transferClass: TransferClass): TrunkStream {
    const stream = new TrunkStream(owner, id, name, transferClass);
    stream.#nextPlace = 1;
    stream.#isAccepted = true;
    return stream;
  }

  /** Asks the other side for it; it is a stream when `accepted` says so. */
  open(): void {
    const { id, name, transferClass } = this;
    this.#owner.control({ stream: id, place: this.#takePlace(), content: { kind: "open", name, transferClass } });
  }

  accept(): void {
    this.#queue({ kind: "accepted" });
  }

  /** @param reason is what its opener gets */
  refuse(reason: DmigrateError): void {
    this.#queue({ kind: "reset", reason });
    this.#hasEnded = { here: true, there: true };
    this.destroy();
  }

  /** How many bytes of pages it has sent so far, those of zeros left out. */
  get pageBytes(): number {
    return this.#pageBytes;
  }

  /** Whether the other side has cut or refused it, and not the trunk has broken. */
  get wasReset(): boolean {
    return this.#wasReset;
  }

  /** Whether it could send a frame now. */
  get isReady(): boolean {
    const [next] = this.#outgoing;
    return next !== undefined && (next.kind !== "data" || this.#sentBytes < this.#allowedBytes);
  }

  /**
   * Sends pages, which the other side takes with `receivePages`; what is written afterwards arrives when it has all of them.
   * @param spans are asked for, one after the other, when it is their turn to leave
   * @param done is called when all of them have left, or can't any more
   */
  sendPages(spans: Iterable<PageSpan>, read: ReadPages, done: Done): void {
    const others = spans[Symbol.iterator]();
    const first = others.next();
    if (first.done === true || this.destroyed) done(this.destroyed ? new Error("it was closed") : null);
    else this.#send({ kind: "pages", span: first.value, others, read, framesOnTheWay: 0, done });
  }

  /** @param take gets the pages that the other side sends, in no order; valid during the call. What it throws destroys the stream. */
  receivePages(take: TakePages): void {
    this.#takePages = take;
  }

  /** Breaks the trunk, and all streams with it: its user got what can't be. */
  breakTrunk(reason: Error): void {
    this.#owner.broken(reason);
  }

  /**
   * Writes the next frame; undefined if there is none, perhaps only for now.
   * @param into has TRUNK_FRAME_BYTES_SHORT or more; of pages so many leave as there is room for
   */
  writeFrame(into: Uint8Array): OutgoingFrame | undefined {
    const [next] = this.#outgoing;
    if (next === undefined || !this.isReady) return undefined;
    if (next.kind === "pages") return this.#writePages(next, into);
    if (next.kind === "control") {
      this.#outgoing.shift();
      const byteCount = writeTrunkFrame(into, { stream: this.id, place: this.#takePlace(), content: next.content }, crc32);
      return { byteCount, written: () => this.#finish(next) };
    }
    const content = this.#cutData(next.chunks, Math.min(TRUNK_DATA_BYTES_MAX, this.#allowedBytes - this.#sentBytes));
    this.#sentBytes += content.byteCount;
    if (next.chunks.length === 0) this.#outgoing.shift();
    return this.#onTheWay(next, writeTrunkFrame(into, { stream: this.id, place: this.#takePlace(), content }, crc32));
  }

  /** Undefined if none can be read. */
  #writePages(next: Outgoing & { readonly kind: "pages" }, into: Uint8Array): OutgoingFrame | undefined {
    const { span } = next;
    if (span === undefined) return undefined;
    const room = Math.floor((into.length - PAGES_OFFSET) / PAGE_BYTES);
    const part = { ...span, pageCount: Math.min(span.pageCount, FRAME_PAGES_MAX, room) };
    try {
      const pageCount = next.read(part, into.subarray(PAGES_OFFSET, PAGES_OFFSET + part.pageCount * PAGE_BYTES));
      const rest = { ...span, page: span.page + part.pageCount, pageCount: span.pageCount - part.pageCount };
      next.span = rest.pageCount > 0 ? rest : nextOf(next.others);
      if (next.span === undefined) this.#outgoing.shift();
      if (pageCount > 0) {
        const byteCount = sealPages(into, { stream: this.id, place: this.#takePlace(), ...part, pageCount }, crc32);
        this.#pageBytes += byteCount - PAGES_OFFSET;
        return this.#onTheWay(next, byteCount);
      }
      this.#finishIfOver(next);
    } catch (error) {
      this.destroy(DmigrateError.from(error));
      this.#drop(next); // one that was destroyed before has it still
    }
    return undefined;
  }

  #drop(outgoing: Outgoing): void {
    const at = this.#outgoing.indexOf(outgoing);
    if (at >= 0) this.#outgoing.splice(at, 1);
    this.#finish(outgoing, new Error("it was closed"));
  }

  #onTheWay(outgoing: Outgoing & { readonly kind: "data" | "pages" }, byteCount: number): OutgoingFrame {
    outgoing.framesOnTheWay += 1;
    const written = (): void => {
      outgoing.framesOnTheWay -= 1;
      this.#finishIfOver(outgoing);
    };
    return { byteCount, written };
  }

  #finishIfOver(outgoing: Outgoing & { readonly kind: "data" | "pages" }): void {
    const isSent = outgoing.kind === "data" ? outgoing.chunks.length === 0 : outgoing.span === undefined;
    if (isSent && outgoing.framesOnTheWay === 0) this.#finish(outgoing);
  }

  #finish(outgoing: Outgoing, error?: Error): void {
    if (this.#undone.delete(outgoing)) outgoing.done(error);
  }

  #takePlace(): number {
    this.#sentFrames += 1;
    return this.#sentFrames - 1;
  }

  #cutData(chunks: Uint8Array[], byteCountMax: number): PlainContent & { readonly kind: "data" } {
    const pieces: Uint8Array[] = [];
    let byteCount = 0;
    for (let chunk = chunks[0]; chunk !== undefined && byteCount < byteCountMax; chunk = chunks[0]) {
      const piece = chunk.subarray(0, byteCountMax - byteCount);
      pieces.push(piece);
      byteCount += piece.length;
      if (piece.length === chunk.length) chunks.shift();
      else chunks[0] = chunk.subarray(piece.length);
    }
    return { kind: "data", pieces, byteCount };
  }

  /** Takes a frame that has arrived. Throws PROTOCOL for one that can't be. */
  receive(place: number, content: FrameContent): void {
    if (content.kind === "credit") return this.#allow(content.takenBytes);
    if (place < this.#nextPlace || this.#early.has(place)) throw wrong(`frame ${place} of stream ${this.name} twice`);
    if (content.kind === "data") this.#arrivedBytes += content.byteCount;
    if (this.#arrivedBytes > this.#toldBytes + WINDOW_BYTES || this.#early.size >= EARLY_FRAMES_MAX)
      throw wrong(`more of stream ${this.name} than there is room for`);
    this.#early.set(place, content.kind === "pages" ? this.#takeAtOnce(content) : kept(content));
    for (let next = this.#early.get(this.#nextPlace); next !== undefined; next = this.#early.get(this.#nextPlace)) {
      this.#early.delete(this.#nextPlace);
      this.#nextPlace += 1;
      this.#deliver(next);
      if (this.#isCut) return; // its reader may have cut it because of that
    }
  }

  #takeAtOnce(pages: FramePages): OrderedContent {
    if (this.destroyed) return { kind: "taken" };
    if (this.#takePages === undefined) throw wrong(`pages on stream ${this.name}, which has none`);
    try {
      for (const { span, bytes } of pageRuns(pages)) this.#takePages(span, bytes);
    } catch (error) {
      this.destroy(DmigrateError.from(error));
    }
    return { kind: "taken" };
  }

  #allow(takenBytes: number): void {
    if (takenBytes > this.#sentBytes) throw wrong(`a credit for what stream ${this.name} has not sent`);
    this.#allowedBytes = Math.max(this.#allowedBytes, takenBytes + WINDOW_BYTES); // credits may overtake each other
    if (this.isReady) this.#owner.ready(this);
  }

  #deliver(content: OrderedContent): void {
    if (this.#hasEnded.there && content.kind !== "reset") throw wrong(`a frame behind the end of stream ${this.name}`);
    switch (content.kind) {
      case "data":
        if (this.destroyed) return this.#reset(null);
        this.#deliveredBytes += content.byteCount;
        for (const piece of content.pieces) this.push(piece);
        this.#tellTaken();
        return;
      case "end":
        this.#hasEnded.there = true;
        if (this.destroyed) this.#owner.over(this);
        this.push(null);
        return;
      case "accepted":
        this.#isAccepted = true;
        this.#acceptance.resolve();
        return;
      case "reset":
        this.#wasReset = true;
        this.#hasEnded = { here: true, there: true };
        this.#owner.over(this);
        this.destroy(content.reason ?? new Error("the other side cut it"));
        return;
      case "taken":
        return;
      case "open":
        throw wrong(`stream ${this.name} once more`);
    }
  }

  /** What arrives is pushed; how much of it is read decides how much may arrive. */
  override _read(): void {}

  override read(size?: number): unknown {
    const chunk: unknown = super.read(size);
    this.#tellTaken();
    return chunk;
  }

  /** Tells the sender what its reader has taken, each time that this is half a window. */
  #tellTaken(): void {
    const takenBytes = this.#deliveredBytes - this.readableLength;
    if (takenBytes - this.#toldBytes < WINDOW_BYTES / 2) return;
    this.#toldBytes = takenBytes;
    this.#owner.control({ stream: this.id, place: 0, content: { kind: "credit", takenBytes } });
  }

  override _write(chunk: Uint8Array, _encoding: BufferEncoding, done: Done): void {
    this.#send({ kind: "data", chunks: [chunk], framesOnTheWay: 0, done });
  }

  override _writev(parts: readonly { readonly chunk: Uint8Array }[], done: Done): void {
    this.#send({ kind: "data", chunks: parts.map(({ chunk }) => chunk), framesOnTheWay: 0, done });
  }

  override _final(done: Done): void {
    this.#hasEnded.here = true;
    this.#send({ kind: "control", content: { kind: "end" }, done });
  }

  /** As a socket does: after our own end the other side may go on until something of it arrives that nobody reads. */
  override _destroy(error: Error | null, done: Done): void {
    if (!this.#hasEnded.here || (error !== null && !this.#hasEnded.there)) this.#reset(error);
    else if (this.#hasEnded.there) this.#owner.over(this);
    this.#acceptance.reject(error ?? new Error("it was closed"));
    for (const each of this.#undone) this.#finish(each, error ?? new Error("it was closed"));
    done(error);
  }

  /** What has not left does not leave any more. One that is not accepted yet must not overtake what opens it. */
  #reset(error: Error | null): void {
    const content = { kind: "reset", ...(error instanceof DmigrateError ? { reason: error } : {}) } as const;
    this.#outgoing.splice(0, Infinity, ...this.#outgoing.filter(({ kind }) => kind === "control"));
    this.#hasEnded = { here: true, there: true };
    this.#owner.over(this);
    if (this.#isAccepted) this.#queue(content);
    else this.#owner.control({ stream: this.id, place: this.#takePlace(), content });
  }

  #queue(content: PlainContent): void {
    this.#send({ kind: "control", content, done: () => {} });
  }

  #send(outgoing: Outgoing): void {
    if (outgoing.kind === "data" && outgoing.chunks.every(({ length }) => length === 0)) return outgoing.done();
    this.#outgoing.push(outgoing);
    this.#undone.add(outgoing);
    if (this.isReady) this.#owner.ready(this);
  }
}

/** What waits for others must not lie where they arrive. */
function kept(content: Exclude<FrameContent, { kind: "credit" | "pages" }>): OrderedContent {
  return content.kind === "data" ? { ...content, pieces: content.pieces.map((piece) => Buffer.from(piece)) } : content;
}

function nextOf<T>(iterator: Iterator<T>): T | undefined {
  const next = iterator.next();
  return next.done === true ? undefined : next.value;
}

function wrong(what: string): DmigrateError {
  return new DmigrateError("PROTOCOL", `An agent sent ${what}; update both to the same release`);
}
