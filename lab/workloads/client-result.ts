/**
 * What a client measured: the form of its result, and how it follows from the times of its replies.
 */
import * as z from "zod";
import type { ReplyLog } from "./reply-log.ts";

const span = z.object({
  /** Of the mark that began it, or as it was asked for. */
  name: z.string(),
  /** Milliseconds since 1970. */
  startMs: z.number(),
  durationMs: z.number(),
  replies: z.int(),
  repliesPerSecond: z.number(),
  /** Longest gap between two replies inside it. */
  downtimeMs: z.number(),
});

/** What every client measures. */
export const clientResult = z.object({
  /** Longest gap between two replies, or between the last one and the end, over whatever connections. */
  downtimeMs: z.number(),
  /** The same of that one of its connections which waited longest. */
  longestWaitMs: z.number(),
  /** When the gap began: milliseconds since 1970. */
  gapAtMs: z.number(),
  durationMs: z.number(),
  replies: z.int(),
  repliesPerSecond: z.number(),
  /** How often it connected: as often as it has connections if none ever broke. */
  connections: z.int(),
  /** Everything that went wrong: lost connections, error replies, wrong answers and, at the end, what was not there. */
  errors: z.int(),
  /** From each mark to the next, the last one to the end; then those that were asked for. */
  spans: z.array(span),
  /** The first few faults, in words. */
  faults: z.array(z.string()),
});

/** What the redis client measures besides. */
export const redisClientResult = clientResult.extend({
  /** Keys whose last acknowledged write is to be found at the end. */
  acknowledgedKeys: z.int(),
  /** Acknowledged writes and increments that were not there later. */
  lostWrites: z.int(),
  /** Values that were not read back as they had just been written. */
  wrongReads: z.int(),
  /** Increments that were executed more than once. */
  doubleIncrements: z.int(),
});

/** What the PostgreSQL client measures besides. */
export const postgresClientResult = clientResult.extend({
  commits: z.int(),
  /** Transactions that were committed, and were not there later. */
  lostCommits: z.int(),
  /** Transactions that were there more often than they were committed. */
  doubledCommits: z.int(),
});

export type ClientResult = z.infer<typeof clientResult>;
export type RedisClientResult = z.infer<typeof redisClientResult>;
export type PostgresClientResult = z.infer<typeof postgresClientResult>;

/** A moment that whoever drives the client gave a name, by the clock of performance.now(). */
export interface Mark {
  readonly name: string;
  readonly timeMs: number;
}

/** A span that somebody asked for, by the same clock. */
export interface Stretch {
  readonly name: string;
  readonly fromMs: number;
  readonly toMs: number;
}

/** What spans a result is to have. */
export interface SpansWanted {
  readonly marks: readonly Mark[];
  readonly stretches: readonly Stretch[];
}

/** How many faults are told in words. */
const FAULTS_MAX = 10;

/** Counts what went wrong and keeps the first few in words. */
export class FaultList {
  readonly messages: string[] = [];
  count = 0;

  add(message: string): void {
    this.count += 1;
    if (this.messages.length < FAULTS_MAX) this.messages.push(message);
  }
}

/**
 * Derives a result. Times are of performance.now().
 * @param log of all replies
 * @param lanes those of each connection, if there are several
 */
export function measure(
  log: ReplyLog,
  startMs: number,
  endMs: number,
  { marks, stretches }: SpansWanted,
  connections: number,
  faults: FaultList,
  lanes: readonly ReplyLog[] = [log],
): ClientResult {
  const gap = log.longestGap(startMs, endMs);
  const whole = spanOf(log, "whole", startMs, endMs);
  return {
    downtimeMs: round(gap.lengthMs),
    longestWaitMs: round(Math.max(...lanes.map((lane) => lane.longestGap(startMs, endMs).lengthMs))),
    gapAtMs: round(performance.timeOrigin + gap.startMs),
    durationMs: whole.durationMs,
    replies: log.replyCount,
    repliesPerSecond: whole.repliesPerSecond,
    connections,
    errors: faults.count,
    spans: [
      ...marks.map(({ name, timeMs }, index) => spanOf(log, name, timeMs, marks[index + 1]?.timeMs ?? endMs)),
      ...stretches.map(({ name, fromMs, toMs }) => spanOf(log, name, fromMs, toMs)),
    ],
    faults: faults.messages,
  };
}

function spanOf(log: ReplyLog, name: string, fromMs: number, toMs: number): z.infer<typeof span> {
  const durationMs = toMs - fromMs;
  const replies = log.repliesBetween(fromMs, toMs);
  return {
    name,
    startMs: round(performance.timeOrigin + fromMs),
    durationMs: round(durationMs),
    replies,
    repliesPerSecond: durationMs > 0 ? Math.round((replies * 1000) / durationMs) : 0,
    downtimeMs: round(log.longestGap(fromMs, toMs).lengthMs),
  };
}

/** To microseconds. */
function round(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}
