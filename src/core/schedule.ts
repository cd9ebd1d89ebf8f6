/**
 * Which of the streams of a migration sends its next frame: the paper's multi-priority transfer, for everything that crosses. Pure.
 *
 * Classes that somebody waits for come strictly before others, in their order. The others share what is left by weight (Goyal, Vin, Cheng,
 * "Start-time Fair Queueing", 1996), the streams of one class in turn. Of sixteen frames in a row that were strictly first, one is given to
 * who has waited longest, so that nobody starves. A *lane* is a connection: the reserved one carries nothing but what somebody waits for,
 * so that this never has to wait for a frame of bulk that is leaving.
 */

/** What crosses, in the order of how much somebody waits for it. */
export const TRANSFER_CLASSES = [
  /** Pages that a task waits for, and who asks for them. */
  "demanded",
  /** What the freeze and the handover wait for: CRIU's images, last differences. */
  "handover",
  /** Pages that are likely to be asked for next. */
  "near",
  /** All other memory. */
  "memory",
  /** The writable layer, volumes, the log so far. */
  "files",
  /** Image layers. */
  "layers",
] as const;

export type TransferClass = (typeof TRANSFER_CLASSES)[number];

/** The classes that share what those before them leave, and in what proportion. */
const SHARES: Partial<Record<TransferClass, number>> = { memory: 4, files: 2, layers: 1 };
const STRICT = TRANSFER_CLASSES.filter((each) => SHARES[each] === undefined);
const SHARING = TRANSFER_CLASSES.filter((each) => SHARES[each] !== undefined);
/** What the reserved lane carries. */
const URGENT: readonly TransferClass[] = ["demanded", "handover"];
/** After so many frames that were strictly first, one is given away. */
const STRICT_RUN_MAX = 15;

/** `fifo`: no class comes before another, to show what that is worth. */
export type TransferOrder = "priority" | "fifo";

/** `strict`: a shared one, as long as it carries nothing that nobody waits for. */
export type Lane = "reserved" | "strict" | "shared";

/** Whether somebody waits for what is of this class, or is likely to. */
export function isStrict(of: TransferClass): boolean {
  return STRICT.includes(of);
}

/** A frame that was sent, or that there was none any more. */
export interface Sent {
  readonly byteCount: number;
  /** Whether its stream has another one. */
  readonly hasMore: boolean;
}

interface ClassState<Stream> {
  /** Streams that have something to send, the next one first. */
  readonly ready: Set<Stream>;
  /** Virtual time at which its next frame starts; of classes that share. */
  startTag: number;
  /** The number of the frame after which it began to wait. */
  waitsSince: number;
}

function idle<Stream>(): ClassState<Stream> {
  return { ready: new Set(), startTag: 0, waitsSince: 0 };
}

export class Schedule<Stream> {
  readonly #classes: Readonly<Record<TransferClass, ClassState<Stream>>>;
  #virtualTime = 0;
  #frameCount = 0;
  #strictRun = 0;

  constructor() {
    this.#classes = { demanded: idle(), handover: idle(), near: idle(), memory: idle(), files: idle(), layers: idle() };
  }

  /** Tells that a stream has something to send. */
  add(stream: Stream, of: TransferClass): void {
    const state = this.#classes[of];
    if (state.ready.size === 0) {
      state.waitsSince = this.#frameCount;
      state.startTag = Math.max(state.startTag, this.#virtualTime);
    }
    state.ready.add(stream);
  }

  /** How many streams have something to send. */
  get readyCount(): number {
    return TRANSFER_CLASSES.reduce((sum, each) => sum + this.#classes[each].ready.size, 0);
  }

  /** Whether something is ready that nobody waits for. */
  get hasShared(): boolean {
    return this.#first(SHARING) !== undefined;
  }

  /** Has the stream whose turn it is send a frame. Returns whether there was one. */
  next(lane: Lane, send: (stream: Stream) => Sent): boolean {
    const chosen = lane === "shared" ? this.#choose() : this.#first(lane === "reserved" ? URGENT : STRICT);
    const state = chosen === undefined ? undefined : this.#classes[chosen];
    const [stream] = state?.ready ?? [];
    if (chosen === undefined || state === undefined || stream === undefined) return false;
    state.ready.delete(stream);
    const { byteCount, hasMore } = send(stream);
    if (hasMore) state.ready.add(stream); // behind the others of its class
    this.#frameCount += 1;
    state.waitsSince = this.#frameCount;
    const share = SHARES[chosen];
    if (share !== undefined) {
      this.#virtualTime = state.startTag;
      state.startTag += byteCount / share;
    }
    return true;
  }

  #choose(): TransferClass | undefined {
    const first = this.#first(STRICT);
    if (first === undefined) return this.#fairest();
    const others = TRANSFER_CLASSES.filter((each) => each !== first && this.#isWaiting(each));
    this.#strictRun = others.length === 0 ? 0 : this.#strictRun + 1;
    if (this.#strictRun <= STRICT_RUN_MAX) return first;
    this.#strictRun = 0;
    return others.reduce((a, b) => (this.#classes[b].waitsSince < this.#classes[a].waitsSince ? b : a));
  }

  #first(of: readonly TransferClass[]): TransferClass | undefined {
    return of.find((each) => this.#isWaiting(each));
  }

  #fairest(): TransferClass | undefined {
    this.#strictRun = 0;
    let fairest: TransferClass | undefined;
    for (const each of SHARING) {
      if (this.#isWaiting(each) && (fairest === undefined || this.#classes[each].startTag < this.#classes[fairest].startTag))
        fairest = each;
    }
    return fairest;
  }

  #isWaiting(of: TransferClass): boolean {
    return this.#classes[of].ready.size > 0;
  }
}
