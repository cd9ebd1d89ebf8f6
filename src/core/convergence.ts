/**
 * When rounds of memory end: when what they leave is little enough, or when another one would not make it less. Pure.
 *
 * Each round copies what was written while the one before crossed, so rounds get shorter only as long as less is written in a round's time
 * than crosses in it (Clark et al., "Live Migration of Virtual Machines", NSDI 2005, section 3.2: the writable working set).
 */

/** A round that has crossed. */
export interface Round {
  readonly sentBytes: number;
  readonly ms: number;
  /** Written while it crossed, or not copied for another reason: what is still missing on the target after it. */
  readonly leftBytes: number;
}

/** When to stop. */
export interface Goal {
  /** Enough is copied when no more than this is left. */
  readonly leftBytes: number;
  /** So many rounds in a row may fail to leave less: what a program writes varies. */
  readonly patience: number;
}

/** `another` round is worth it, what is left is little `enough`, or it would be of `no-use`. */
export type Verdict = "another" | "enough" | "no-use";

/** What copies ahead as much as is worth it: what is left crosses after the handover, so it need not be little. */
export const WHILE_IT_HELPS: Goal = { leftBytes: 8 << 20, patience: 1 };

/** How many rounds that leave no less a migration bears which needs them to. */
const PATIENCE = 2;
/** A round, or the best of as many as patience allows, is of use if it leaves half. So rounds send little more than twice the memory. */
const SHRUNK = 0.5;

/** The goal of who can't hand over before what is left crosses in a given time. */
export function untilItCrossesIn(ms: number, bytesPerSecond: number): Goal {
  return { leftBytes: (Math.max(0, ms) / 1000) * bytesPerSecond, patience: PATIENCE };
}

/** @param rounds those so far, the first with all of the memory */
export function afterRounds(rounds: readonly Round[], { leftBytes, patience }: Goal): Verdict {
  const last = rounds.at(-1);
  if (last === undefined) return "another";
  if (last.leftBytes <= leftBytes) return "enough";
  const left = [rounds[0]?.sentBytes ?? 0, ...rounds.map((round) => round.leftBytes)];
  const [before, since] = [left.slice(0, -patience), left.slice(-patience)];
  return before.length === 0 || Math.min(...since) <= SHRUNK * Math.min(...before) ? "another" : "no-use";
}

/** What crossed a second in rounds; undefined if they were too short to tell. */
export function rateOf(rounds: readonly Round[]): number | undefined {
  const telling = rounds.filter(({ sentBytes }) => sentBytes >= TELLING_BYTES);
  const ms = telling.reduce((sum, round) => sum + round.ms, 0);
  return ms === 0 ? undefined : (telling.reduce((sum, { sentBytes }) => sum + sentBytes, 0) / ms) * 1000;
}

const TELLING_BYTES = 4 << 20;
