/**
 * What a client has had committed by a database, and whether what that holds agrees with it. Pure.
 *
 * A client works in numbered transactions: each enters its number, and counts. One whose answer never came may have been committed or not:
 * both are right.
 */

/** What a client knows of its transactions: they are numbered from 1 on. */
export interface Commits {
  readonly begun: number;
  readonly acknowledged: number;
}

/** What the database holds of them. */
export interface Books {
  readonly entries: number;
  /** Entries that are not the same as another one. */
  readonly different: number;
  /** The highest number. */
  readonly last: number;
  /** What was counted. */
  readonly count: number;
}

/** What is wrong with the books. */
export interface Judgement {
  /** Transactions that were acknowledged and are not there, or not as a whole. */
  readonly lost: number;
  /** Transactions that are there more than once, or were never asked for. */
  readonly doubled: number;
}

/** Compares what is there with what was asked for. */
export function judgeBooks({ begun, acknowledged }: Commits, { entries, different, last, count }: Books): Judgement {
  return {
    lost: Math.max(0, acknowledged - Math.min(different, count)),
    doubled: Math.max(0, entries - different, different - begun, last - begun, count - different),
  };
}
