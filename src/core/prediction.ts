/**
 * What each mode would cost, from what was measured, and which one `auto` takes. Pure: docs/modes.md has the formulas in words.
 *
 * A program that writes is taken to write new pages at a steady rate until it has written all of them. It rather writes some again, so
 * rounds leave less than is predicted; a prediction errs to the side on which nobody waits longer than told.
 */
import { afterRounds, untilItCrossesIn, WHILE_IT_HELPS, type Goal, type Round } from "./convergence.ts";
import { DmigrateError } from "./errors.ts";
import { MODES, type Mode, type Report, type RequestableMode } from "./migration.ts";

/** What a prediction is made of. */
export interface Measured {
  /** Memory in which the modes differ: private to the container's processes. */
  readonly memoryBytes: number;
  /** How much of it can be copied ahead: what is tracked on the source, and kept on the target. */
  readonly copyableBytes: number;
  /** What CRIU dumps and restores whatever the mode: memory that can't come later, and files in memory. Its content crosses ahead. */
  readonly frozenBytes: number;
  /** Bytes of different pages that the container wrote in a second. */
  readonly writtenBytesPerSecond: number;
  /** What crosses to the target in a second. */
  readonly bytesPerSecond: number;
  readonly habits: Habits;
  /** When all but memory has crossed, about, since the migration began; and how much that is. They share the link with it. */
  readonly elapsedMs: number;
  readonly sentBytes: number;
}

/** How long what does not depend on memory takes, as it did the last times. */
export interface Habits {
  /** The downtime that any mode has. */
  readonly handoverMs: number;
  /** Stage and finish. */
  readonly aroundMs: number;
}

/** What a mode is predicted to cost. */
export interface Forecast {
  readonly downtimeMs: number;
  readonly totalMs: number;
  /** All that crosses. */
  readonly trafficBytes: number;
  /** Memory that is still missing on the target when the container runs there. */
  readonly missingBytes: number;
  /** Only of `pre-copy`: whether rounds leave little enough for the downtime that is allowed. */
  readonly converges: boolean;
}

export interface Prediction {
  readonly requested: RequestableMode;
  /** What was asked for, if it was. */
  readonly maxDowntimeMs?: number;
  /** The one that is taken; absent if that would not keep to what was asked for. */
  readonly mode?: Mode;
  readonly measured: Measured;
  readonly modes: Readonly<Record<Mode, Forecast>>;
}

/** How much longer than any mode `pre-copy` may have the container stand still if nobody says how long. */
const PRE_COPY_EXTRA_MS = 300;
/** `auto` copies ahead if that leaves so much, or less, of what would be missing without. */
const WORTH_IT = 0.5;
/** On a link without a limit the processors are one, measured with two of them at each end. */
const MEMORY_BYTES_PER_SECOND_MAX = 450e6;
/** What was copied ahead is given to the restored tasks that fast. */
const STORE_BYTES_PER_SECOND = 1.5e9;
/** What is dumped in the freeze is looked at, put together on the target and restored that fast, all in all. */
const FROZEN_BYTES_PER_SECOND = 200e6;
/** How many reports say how long things take here. */
const REPORTS = 5;
/** Before there are any. */
const FIRST_HABITS: Habits = { handoverMs: 250, aroundMs: 700 };

/** Memory that crosses, and how long that takes. */
interface Crossing {
  readonly bytes: number;
  readonly ms: number;
}

/** How memory crosses: while the container runs on the source, while it stands still, and after the handover. */
interface Course {
  readonly ahead?: Crossing;
  readonly frozen?: Crossing;
  readonly after?: Crossing;
}

const NOTHING: Crossing = { bytes: 0, ms: 0 };

/** How rounds would go. */
interface Rounds extends Crossing {
  readonly leftBytes: number;
  readonly converges: boolean;
}

/** Predicts every mode, and takes one. */
export function predict(measured: Measured, requested: RequestableMode, maxDowntimeMs?: number): Prediction {
  const modes = {
    warm: warm(measured),
    "post-copy": postCopy(measured),
    "pre-copy": preCopy(measured, maxDowntimeMs),
    "stop-and-copy": stopAndCopy(measured),
  };
  const mode = requested === "auto" ? quickest(modes) : requested;
  // Whether its rounds are enough is seen when they have crossed, not foreseen.
  const leastMs = mode === "pre-copy" ? standingMs(measured) + fillMs(measured) : modes[mode].downtimeMs;
  const isAllowed = maxDowntimeMs === undefined || leastMs <= maxDowntimeMs;
  return { requested, ...(maxDowntimeMs === undefined ? {} : { maxDowntimeMs }), ...(isAllowed ? { mode } : {}), measured, modes };
}

/** Warm and post-copy have the least downtime, the same; rounds are worth it if they leave clearly less to cross after the handover. */
function quickest(modes: Prediction["modes"]): Mode {
  return modes.warm.missingBytes <= WORTH_IT * modes["post-copy"].missingBytes ? "warm" : "post-copy";
}

/** What the rounds of `pre-copy` may leave. */
export function preCopyGoal(measured: Measured, maxDowntimeMs: number | undefined): Goal {
  const least = standingMs(measured) + fillMs(measured);
  return untilItCrossesIn(maxDowntimeMs === undefined ? PRE_COPY_EXTRA_MS : maxDowntimeMs - least, rate(measured));
}

function warm(measured: Measured): Forecast {
  const rounds = simulate(measured, WHILE_IT_HELPS);
  const last = oneMore(measured, toCatchUp(measured, rounds));
  const bytes = last.leftBytes + measured.memoryBytes - measured.copyableBytes;
  const ahead = { bytes: rounds.bytes + last.sentBytes, ms: rounds.ms + last.ms };
  return forecast(measured, { ahead, after: { bytes, ms: crossMs(measured, bytes) + fillMs(measured) } });
}

function postCopy(measured: Measured): Forecast {
  return forecast(measured, { after: { bytes: measured.memoryBytes, ms: crossMs(measured, measured.memoryBytes) } });
}

function preCopy(measured: Measured, maxDowntimeMs: number | undefined): Forecast {
  const goal = preCopyGoal(measured, maxDowntimeMs);
  const rounds = simulate(measured, goal);
  const last = simulate(measured, goal, toCatchUp(measured, rounds));
  const bytes = last.leftBytes + measured.memoryBytes - measured.copyableBytes;
  const ahead = { bytes: rounds.bytes + last.bytes, ms: rounds.ms + last.ms };
  const predicted = forecast(measured, { ahead, frozen: { bytes, ms: crossMs(measured, bytes) + fillMs(measured) } });
  return { ...predicted, converges: rounds.converges && last.converges && bytes <= goal.leftBytes };
}

function stopAndCopy(measured: Measured): Forecast {
  return forecast(measured, { frozen: { bytes: measured.memoryBytes, ms: crossMs(measured, measured.memoryBytes) } });
}

function forecast(measured: Measured, { ahead = NOTHING, frozen = NOTHING, after = NOTHING }: Course): Forecast {
  const downtimeMs = standingMs(measured) + frozen.ms;
  return {
    downtimeMs,
    totalMs: measured.elapsedMs + crossMs(measured, measured.frozenBytes) + ahead.ms + measured.habits.aroundMs + downtimeMs + after.ms,
    trafficBytes: measured.sentBytes + measured.frozenBytes + ahead.bytes + frozen.bytes + after.bytes,
    missingBytes: after.bytes,
    converges: true,
  };
}

/** Rounds of a program that writes steadily, the first of them with `firstBytes`. */
function simulate(measured: Measured, goal: Goal, firstBytes: number = measured.copyableBytes): Rounds {
  const rounds: Round[] = [];
  let leftBytes = firstBytes;
  let verdict = afterRounds(rounds, goal);
  for (; verdict === "another"; verdict = afterRounds(rounds, goal)) {
    const round = oneMore(measured, leftBytes);
    rounds.push(round);
    ({ leftBytes } = round);
  }
  return {
    bytes: rounds.reduce((sum, { sentBytes }) => sum + sentBytes, 0),
    ms: rounds.reduce((sum, { ms }) => sum + ms, 0),
    leftBytes,
    converges: verdict === "enough",
  };
}

/** What is to cross again once the stage is over. */
function toCatchUp(measured: Measured, { leftBytes }: Rounds): number {
  return Math.min(measured.copyableBytes, leftBytes + writtenIn(measured, measured.habits.aroundMs));
}

function oneMore(measured: Measured, sentBytes: number): Round {
  const ms = crossMs(measured, sentBytes);
  return { sentBytes, ms, leftBytes: writtenIn(measured, ms) };
}

function writtenIn({ copyableBytes, writtenBytesPerSecond }: Measured, ms: number): number {
  return Math.min(copyableBytes, Math.floor((writtenBytesPerSecond * ms) / 1000));
}

function crossMs(measured: Measured, bytes: number): number {
  return (bytes / rate(measured)) * 1000;
}

function rate({ bytesPerSecond }: Measured): number {
  return Math.min(bytesPerSecond, MEMORY_BYTES_PER_SECOND_MAX);
}

/** The downtime that any mode has. */
function standingMs(measured: Measured): number {
  return measured.habits.handoverMs + frozenMs(measured.frozenBytes);
}

/** How long a container stands still for so much that CRIU dumps and restores, all of which was copied ahead. */
export function frozenMs(bytes: number): number {
  return (bytes / FROZEN_BYTES_PER_SECOND) * 1000;
}

/** How long it takes to give the restored tasks what was copied ahead. */
function fillMs({ copyableBytes }: Measured): number {
  return (copyableBytes / STORE_BYTES_PER_SECOND) * 1000;
}

/**
 * How long the last migrations from this host took but for what depends on memory.
 * @param reports of migrations, the newest first
 */
export function habitsOf(reports: Iterable<Report>): Habits {
  const recent = [...reports].filter(({ outcome, steps }) => outcome === "completed" && steps.length > 0).slice(0, REPORTS);
  if (recent.length === 0) return FIRST_HABITS;
  return { handoverMs: median(recent.map(handoverMsOf)), aroundMs: median(recent.map(aroundMsOf)) };
}

function handoverMsOf({ downtimeMs, steps, prediction }: Report): number {
  const forMemory = steps.filter(({ name }) => name === MEMORY_STEP).reduce((sum, { startMs, endMs }) => sum + endMs - startMs, 0);
  const forFrozen = prediction === undefined ? 0 : frozenMs(prediction.measured.frozenBytes);
  return Math.max(0, downtimeMs - forMemory - forFrozen);
}

function aroundMsOf({ phases }: Report): number {
  const around = phases.filter(({ name }) => name === "stage" || name === "finish");
  return around.reduce((sum, { startMs, endMs }) => sum + endMs - startMs, 0);
}

/** The step of the handover in which memory crosses. */
export const MEMORY_STEP = "memory";

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

/** For when the mode asked for, or any, is predicted to have the container stand still for too long. */
export function downtimeTooLong(container: string, { requested, maxDowntimeMs = 0, modes }: Prediction): DmigrateError {
  const predicted = MODES.map((mode) => `${mode} ${Math.ceil(modes[mode].downtimeMs)} ms`).join(", ");
  const who = requested === "auto" ? "No mode is" : `Mode ${requested} is not`;
  return new DmigrateError(
    "DOWNTIME_TOO_LONG",
    `${who} predicted to have ${container} stand still for ${maxDowntimeMs} ms at most (predicted: ${predicted}); ` +
      "allow more with --max-downtime, or use another mode. It keeps running here",
  );
}

/** For when rounds do not get what is left below what may cross in the downtime. */
export function notConverging(container: string, rounds: readonly Round[], goal: Goal, measured: Measured): DmigrateError {
  const leastBytes = Math.min(...rounds.map(({ leftBytes }) => leftBytes));
  const [written, crosses] = [measured.writtenBytesPerSecond, rate(measured)].map((each) => `${megabytes(each)} a second`);
  return new DmigrateError(
    "NOT_CONVERGING",
    `Pre-copy can't end: ${container} writes ${written}, the link carries ${crosses}, and after ${rounds.length} rounds ` +
      `${megabytes(leastBytes)} were still to cross, where ${megabytes(goal.leftBytes)} may cross in the downtime; use --mode warm or ` +
      "post-copy, or allow more with --max-downtime. It keeps running here, and has lost nothing",
  );
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
