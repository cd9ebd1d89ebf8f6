/** A running migration, from its events to what a terminal or a log shows of it. */
import type { StreamedEvent } from "../agent/client.ts";
import { PHASES, type ByteCounts, type Phase, type PlanChange } from "../core/migration.ts";
import type { Prediction } from "../core/prediction.ts";
import { bytes, duration, padEnd, padStart, plural, type Paint } from "./text.ts";

const PAGE_BYTES = 4096;

/** What the events so far amount to. */
export interface Progress {
  readonly migration?: { readonly id: string; readonly container: string; readonly source: string; readonly target: string };
  /** Time of the last event, in milliseconds since the migration began. */
  readonly atMs: number;
  readonly phases: ReadonlyMap<Phase, { readonly beganMs: number; readonly endedMs?: number }>;
  readonly bytes: ByteCounts;
  /** Bytes a second. */
  readonly rate: number;
  /** What was last said of the time left, and of which phase. */
  readonly remaining?: { readonly phase: Phase; readonly untilMs: number };
  readonly prediction?: Prediction;
  readonly warnings: readonly string[];
}

export const NOTHING_YET: Progress = {
  atMs: 0,
  phases: new Map(),
  bytes: { memory: 0, files: 0, layers: 0, metadata: 0 },
  rate: 0,
  warnings: [],
};

export function advance(progress: Progress, event: StreamedEvent): Progress {
  const next = { ...progress, atMs: event.atMs };
  switch (event.kind) {
    case "began":
      return { ...next, migration: event };
    case "phase-began":
      return { ...next, phases: new Map(progress.phases).set(event.phase, { beganMs: event.atMs }) };
    case "phase-ended": {
      const beganMs = progress.phases.get(event.phase)?.beganMs ?? event.atMs;
      return { ...next, phases: new Map(progress.phases).set(event.phase, { beganMs, endedMs: event.atMs }) };
    }
    case "progress": {
      const { remaining: _outdated, ...rest } = next;
      const { phase, remainingMs, rate } = event;
      const remaining = remainingMs === undefined ? {} : { remaining: { phase, untilMs: event.atMs + remainingMs } };
      return { ...rest, ...remaining, rate, bytes: event.bytes };
    }
    case "planned":
      return next;
    case "predicted":
      return { ...next, prediction: event.prediction };
    case "warning":
      return { ...next, warnings: [...progress.warnings, event.message] };
    case "ended":
      return { ...next, bytes: event.report.bytes, rate: 0 };
  }
}

const SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏";
const SPINNER_STEP_MS = 100;

/**
 * The block of lines a terminal redraws in place.
 * @param nowMs milliseconds since the migration began; later than the last event while a phase runs
 */
export function renderProgress(progress: Progress, nowMs: number, paint: Paint): string[] {
  const { migration, prediction, warnings } = progress;
  const heading =
    migration === undefined ? "Asking the agent" : `Migrating ${migration.container} from ${migration.source} to ${migration.target}`;
  return [
    paint("strong", heading) + (migration === undefined ? "" : paint("quiet", `   ${migration.id}`)),
    "",
    ...PHASES.map((phase) => phaseLine(progress, phase, nowMs, paint)),
    "",
    `  ${sentSoFar(progress, paint)}`,
    ...(prediction === undefined ? [] : [`  ${paint("quiet", "mode")}  ${decision(prediction)}`]),
    ...warnings.map((warning) => `  ${paint("warning", `! ${warning}`)}`),
  ];
}

function phaseLine({ phases, remaining }: Progress, phase: Phase, nowMs: number, paint: Paint): string {
  const span = phases.get(phase);
  if (span === undefined) return `  ${paint("quiet", `  ${phase}`)}`;
  const took = padStart(duration((span.endedMs ?? Math.max(nowMs, span.beganMs)) - span.beganMs), 10);
  if (span.endedMs !== undefined) return `  ${paint("good", "✓")} ${padEnd(phase, 10)}${took}`;
  const spinner = SPINNER[Math.floor(nowMs / SPINNER_STEP_MS) % SPINNER.length] ?? "";
  const left = remaining?.phase === phase ? paint("quiet", `   ${timeLeft(remaining.untilMs - nowMs)}`) : "";
  return `  ${paint("busy", `${spinner} ${padEnd(phase, 10)}`)}${took}${left}`;
}

/** An estimate is no measurement: whole seconds. */
function timeLeft(milliseconds: number): string {
  return milliseconds < 1000
    ? "less than 1 s left"
    : `about ${duration(Math.ceil(milliseconds / 1000) * 1000).replace(/\.00 s$/, " s")} left`;
}

function sentSoFar({ bytes: sent, rate }: Progress, paint: Paint): string {
  const kinds = Object.entries(kindsOf(sent)).map(([kind, sum]) => `${paint("quiet", kind)} ${bytes(sum)}`);
  return [`${paint("quiet", "sent")}  ${kinds.join("  ")}`, ...(rate > 0 ? [`${bytes(rate)}/s`] : [])].join(paint("quiet", "  ·  "));
}

/** Bytes by kind, in the order in which they are told everywhere. */
export function kindsOf({ memory, files, layers, metadata }: ByteCounts): ByteCounts {
  return { memory, files, layers, metadata };
}

/** A plan in a few words. */
export function planOf({ cpuCores, workers, chunkPages, why }: PlanChange): string {
  return `${plural(workers, "reader")}, ${bytes(chunkPages * PAGE_BYTES)} at a time, up to ${cpuCores.toFixed(1)} processors: ${why}`;
}

/** `warm, predicted to stand still for 250 ms and to take 3.40 s in all`. */
function decision({ requested, mode, modes }: Prediction): string {
  if (mode === undefined) return `${requested}: predicted to stand still for too long`;
  const { downtimeMs, totalMs } = modes[mode];
  const chosen = requested === "auto" ? " (auto)" : "";
  return `${mode}${chosen}, predicted to stand still for ${duration(downtimeMs)} and to take ${duration(totalMs)} in all`;
}

/** How often a log is told of bytes, at most. */
const LOG_PROGRESS_MS = 2000;

/**
 * The line a log gets for an event, if any; each stands for itself.
 * @param before the progress up to the event
 * @param lastLineMs `atMs` of the last event that got a line
 */
export function logLine(before: Progress, event: StreamedEvent, lastLineMs: number): string | undefined {
  const at = padStart(`${(event.atMs / 1000).toFixed(3)} s`, 10);
  switch (event.kind) {
    case "began":
      return `${at}  migrating ${event.container} from ${event.source} to ${event.target}: ${event.id}`;
    case "phase-began":
      return `${at}  ${event.phase}`;
    case "phase-ended":
      return `${at}  ${event.phase} took ${duration(event.atMs - (before.phases.get(event.phase)?.beganMs ?? event.atMs))}`;
    case "progress": {
      if (event.atMs - lastLineMs < LOG_PROGRESS_MS) return undefined;
      const kinds = Object.entries(kindsOf(event.bytes)).filter(([, sum]) => sum > 0);
      const left = event.remainingMs === undefined ? "" : `, ${timeLeft(event.remainingMs)}`;
      const sent = kinds.map(([kind, sum]) => `${kind} ${bytes(sum)}`).join(", ");
      return `${at}  ${event.phase}: sent ${sent === "" ? "nothing yet" : sent}; ${bytes(event.rate)}/s${left}`;
    }
    case "planned":
      return `${at}  plan: ${planOf(event.plan)}`;
    case "predicted":
      return `${at}  mode ${decision(event.prediction)}`;
    case "warning":
      return `${at}  warning: ${event.message}`;
    case "ended":
      return undefined;
  }
}
