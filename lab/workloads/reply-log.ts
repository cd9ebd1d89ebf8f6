/**
 * When replies came, and what that says: the longest gap between two, and how many came in a stretch of time. Pure:
 * times are milliseconds of a monotonic clock, given by the caller in ascending order.
 */

/** A stretch of time without any reply. */
export interface Gap {
  readonly startMs: number;
  readonly lengthMs: number;
}

const ENTRIES_PER_CHUNK = 1 << 16;

/** Remembers the time of every arrival: 16 bytes each, in chunks, so that growing never copies what is there. */
export class ReplyLog {
  /** Pairs of time and replies so far. */
  private readonly chunks: Float64Array[] = [];
  private entryCount = 0;
  /** Replies so far. */
  replyCount = 0;

  /** Notes that replies came. */
  add(timeMs: number, replyCount: number): void {
    const place = (this.entryCount % ENTRIES_PER_CHUNK) * 2;
    if (place === 0) this.chunks.push(new Float64Array(ENTRIES_PER_CHUNK * 2));
    const chunk = this.chunks.at(-1);
    if (chunk === undefined) return;
    this.replyCount += replyCount;
    chunk[place] = timeMs;
    chunk[place + 1] = this.replyCount;
    this.entryCount += 1;
  }

  /** The longest time without a reply between two moments; they count as its bounds too. */
  longestGap(fromMs: number, toMs: number): Gap {
    let longest: Gap = { startMs: fromMs, lengthMs: 0 };
    let previousMs = fromMs;
    const consider = (timeMs: number): void => {
      if (timeMs - previousMs > longest.lengthMs) longest = { startMs: previousMs, lengthMs: timeMs - previousMs };
      previousMs = timeMs;
    };
    for (let index = this.countUpTo(fromMs); index < this.entryCount; index += 1) {
      const { timeMs } = this.entry(index);
      if (timeMs >= toMs) break;
      consider(timeMs);
    }
    consider(toMs);
    return longest;
  }

  /** How many replies came after `fromMs`, up to and including `toMs`. */
  repliesBetween(fromMs: number, toMs: number): number {
    const upTo = (timeMs: number): number => this.entry(this.countUpTo(timeMs) - 1).replyCount;
    return upTo(toMs) - upTo(fromMs);
  }

  /** How many entries are of `momentMs` or before. */
  private countUpTo(momentMs: number): number {
    let [low, high] = [0, this.entryCount];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.entry(middle).timeMs <= momentMs) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Before the first nothing came. */
  private entry(index: number): { readonly timeMs: number; readonly replyCount: number } {
    const place = (index % ENTRIES_PER_CHUNK) * 2;
    const chunk = this.chunks[Math.floor(index / ENTRIES_PER_CHUNK)];
    return { timeMs: chunk?.[place] ?? 0, replyCount: chunk?.[place + 1] ?? 0 };
  }
}
