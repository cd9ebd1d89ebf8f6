/**
 * How the migrations away from a host share its links, each by connections of its own. Pure.
 *
 * The rules are those within a migration (schedule.ts). What somebody waits for in one comes before what nobody waits for in all others,
 * of which one byte in sixteen leaves meanwhile. And what goes to the same host is shared by bytes (Goyal, Vin, Cheng, "Start-time Fair
 * Queueing", 1996): who is ahead of another that has something to send waits for it, however many connections it has.
 */

/** So many bytes one may be ahead: enough for all of its connections to be busy. */
export const LEAD_BYTES: number = 1 << 20;
/** Who has had something to send for so long, and has sent nothing, is not waited for: its connections are stuck. */
export const STUCK_MS = 1_000;
/** For so long after something that somebody waited for more of it is expected. */
export const STRICT_MS = 100;
/** Meanwhile one byte of so many is what nobody waits for, */
export const STRICT_SHARE = 16;
/** and each migration sends a frame of it in so many milliseconds at least: it may go to another host, on a quicker way. */
export const HELD_MS_MAX = 50;

/** The migrations that share. */
interface Common {
  readonly all: Set<LinkShare>;
  sentBytes: number;
}

export class LinkShares {
  readonly #common: Common = { all: new Set(), sentBytes: 0 };

  /**
   * @param peer where it sends to
   * @param wake is called when it may send sooner than it was told
   */
  join(peer: string, wake: () => void): LinkShare {
    return new LinkShare(this.#common, peer, wake);
  }
}

/** The share of one migration. */
export class LinkShare {
  readonly #common: Common;
  readonly #peer: string;
  readonly #wake: () => void;
  #isReady = false;
  /** Since when it has something to send and has sent nothing. */
  #readySinceMs = 0;
  /** Virtual time: what it has sent so far, and what it could have while it had nothing to send. */
  #tag = 0;
  #lastTag = 0;
  #strictUntilMs = 0;
  /** What others wait for holds it up until they have sent so much, or so long. */
  #held = { untilBytes: 0, untilMs: 0 };
  #mustWait = false;

  constructor(common: Common, peer: string, wake: () => void) {
    this.#common = common;
    this.#peer = peer;
    this.#wake = wake;
    common.all.add(this);
  }

  /** Tells whether it has something to send now that nobody waits for. */
  ready(isReady: boolean, nowMs: number): void {
    if (isReady === this.#isReady) return;
    this.#isReady = isReady;
    if (isReady) this.#catchUp(nowMs);
    else this.#wakeOthers(nowMs);
  }

  /** For how long it may send nothing that nobody waits for. */
  waitMs(nowMs: number): number {
    const waitMs = Math.max(this.#heldMs(nowMs), this.#aheadMs(nowMs));
    this.#mustWait = waitMs > 0;
    return waitMs;
  }

  /** @param isStrict whether somebody waits for it */
  sent(byteCount: number, isStrict: boolean, nowMs: number): void {
    if (this.#isStuck(nowMs)) this.#catchUp(nowMs);
    this.#readySinceMs = nowMs;
    this.#lastTag = this.#tag;
    this.#tag += byteCount;
    this.#common.sentBytes += byteCount;
    if (isStrict) this.#strictUntilMs = nowMs + STRICT_MS;
    else this.#held = { untilBytes: this.#common.sentBytes + (STRICT_SHARE - 1) * byteCount, untilMs: nowMs + HELD_MS_MAX };
    this.#wakeOthers(nowMs);
  }

  /** It sends nothing any more. */
  leave(nowMs: number): void {
    this.#common.all.delete(this);
    this.#wakeOthers(nowMs);
  }

  get #others(): LinkShare[] {
    return [...this.#common.all].filter((each) => each !== this);
  }

  /** Those that send to the same host. */
  get #rivals(): LinkShare[] {
    return this.#others.filter((each) => each.#peer === this.#peer);
  }

  #isStuck(nowMs: number): boolean {
    return this.#isReady && nowMs - this.#readySinceMs >= STUCK_MS;
  }

  /** What it did not send while it could not is not made up for. */
  #catchUp(nowMs: number): void {
    this.#readySinceMs = nowMs;
    this.#tag = Math.max(this.#tag, ...this.#rivals.map((each) => each.#lastTag));
  }

  /** While somebody waits for what others send. */
  #heldMs(nowMs: number): number {
    const strictMs = Math.max(0, ...this.#others.map((each) => each.#strictUntilMs - nowMs));
    return this.#common.sentBytes >= this.#held.untilBytes ? 0 : Math.min(strictMs, Math.max(0, this.#held.untilMs - nowMs));
  }

  /** Until others have sent as much. */
  #aheadMs(nowMs: number): number {
    const behind = this.#rivals.filter((each) => each.#isReady && each.#tag + LEAD_BYTES <= this.#tag);
    return Math.max(0, ...behind.map((each) => each.#readySinceMs + STUCK_MS - nowMs));
  }

  #wakeOthers(nowMs: number): void {
    for (const each of this.#others) if (each.#mustWait && each.waitMs(nowMs) === 0) each.#wake();
  }
}
