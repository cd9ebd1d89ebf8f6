/** The report of a migration as a person reads it: what happened, how long it took, and a picture of where the time went. */
import { isWholeAtHandover, MODES, type Report, type Step } from "../core/migration.ts";
import type { Forecast } from "../core/prediction.ts";
import { kindsOf, planOf } from "./render-progress.ts";
import { bars, bytes, count, duration, padEnd, padStart, plural, table, type Paint, type Tone } from "./text.ts";

/** Phases in which nobody runs the container. */
const DOWNTIME_PHASES: ReadonlySet<string> = new Set(["freeze", "handover"]);
const PAGE_BYTES = 4096;
const BAR_COLUMNS_MAX = 60;
/** What a step is made of is left out if it took less than this share of the downtime. */
const MINOR_SHARE = 0.01;
/** Room for nearly every duration; a longer one takes what it needs. */
const DURATION_COLUMNS_MIN = 8;

export function renderReport(report: Report, columns: number, paint: Paint): string[] {
  const { phases, steps, warnings, downtimeMs } = report;
  const lines = [...verdict(report, paint), ""];
  if (phases.length > 0) {
    const rows = phases.map((phase): Row => ({
      label: phase.name,
      spans: [phase],
      tone: DOWNTIME_PHASES.has(phase.name) ? "downtime" : "busy",
    }));
    lines.push(...waterfall(rows, columns, paint), "");
  }
  if (steps.length > 0) {
    lines.push(paint("downtime", `  Inside the downtime of ${duration(downtimeMs)}`));
    lines.push(...waterfall([...rowsOf(steps, downtimeMs * MINOR_SHARE)], columns, paint), "");
  }
  lines.push(
    ...predictions(report, paint),
    ...amounts(report, paint),
    ...warnings.map((warning) => paint("warning", `  warning  ${warning}`)),
  );
  return lines;
}

/** Whose the container is now, and what it took. It may have ended there since: a warning then says so. */
function verdict({ container, source, target, outcome, totalMs, downtimeMs, error, id }: Report, paint: Paint): string[] {
  const because = error === undefined ? [] : `${paint("bad", error.code)}  ${error.message}`.split("\n").map((line) => `  ${line}`);
  const stood = paint("downtime", duration(downtimeMs));
  const undone = (isRefused: boolean): string =>
    isRefused
      ? paint("strong", `The move of ${container} from ${source} to ${target} did not begin.`)
      : `${paint("strong", `${container} stays on ${source}.`)} Its move to ${target} was undone.`;
  switch (outcome) {
    case "completed":
      return [
        `${paint("good", "✓")} ${paint("strong", `${container} moved to ${target}.`)} It stood still for ${stood}.`,
        paint("quiet", `  Migration ${id} from ${source} took ${duration(totalMs)}.`),
      ];
    case "rolled-back":
      return [
        `${paint("bad", "✗")} ${undone(error?.code === "PREFLIGHT_BLOCKED")}`,
        ...because,
        paint("quiet", `  Migration ${id}; ${plain(downtimeMs)}.`),
      ];
    case "failed":
      return [
        `${paint("bad", "✗")} ${paint("strong", `The migration of ${container} from ${source} to ${target} failed.`)}`,
        ...because,
        paint("quiet", `  Migration ${id}; it ended after ${duration(totalMs)}.`),
      ];
  }
}

function plain(downtimeMs: number): string {
  return downtimeMs === 0 ? "the container never stood still" : `the container stood still for ${duration(downtimeMs)}`;
}

/** A line of a waterfall. */
interface Row {
  readonly label: string;
  readonly spans: readonly Step[];
  readonly tone: Tone;
}

/** Steps in the order of their beginnings, pieces of the same name in one row, and below each what it is made of, unless that is minor. */
function* rowsOf(steps: readonly Step[], minorMs: number, indent = ""): Generator<Row, void> {
  const byName = Map.groupBy(
    steps.toSorted((a, b) => a.startMs - b.startMs),
    ({ name }) => name,
  );
  for (const [name, spans] of byName) {
    if (indent !== "" && sumOf(spans) < minorMs) continue;
    yield { label: indent + name, spans, tone: indent === "" ? "downtime" : "quiet" };
    const parts = spans.flatMap((span) => span.steps ?? []);
    yield* rowsOf(parts, minorMs, `${indent}  `);
  }
}

function sumOf(spans: readonly Step[]): number {
  return spans.reduce((sum, { startMs, endMs }) => sum + endMs - startMs, 0);
}

/** Each row's label, how long it took, and where it lies on the time line of all. */
function waterfall(rows: readonly Row[], columns: number, paint: Paint): string[] {
  const lines = rows.map((row) => ({ ...row, took: duration(sumOf(row.spans)) }));
  const labels = Math.max(...lines.map(({ label }) => label.length));
  const durations = Math.max(DURATION_COLUMNS_MIN, ...lines.map(({ took }) => took.length));
  const room = Math.max(10, Math.min(BAR_COLUMNS_MAX, columns - (2 + labels + 2 + durations + 2) - 1));
  const all = rows.flatMap(({ spans }) => spans);
  const axis = { fromMs: Math.min(...all.map(({ startMs }) => startMs)), toMs: Math.max(...all.map(({ endMs }) => endMs)) };
  return lines.map(
    ({ label, spans, tone, took }) => `  ${padEnd(label, labels)}  ${padStart(took, durations)}  ${paint(tone, bars(spans, axis, room))}`,
  );
}

/** What was predicted of each mode, and what the one that was taken became. */
function predictions({ prediction, mode, outcome, downtimeMs, totalMs, bytes: sent, pages }: Report, paint: Paint): string[] {
  if (prediction === undefined) return [];
  const rows = MODES.map((each) => [`${each === mode ? "→" : " "} ${each}`].concat(costsOf(prediction.modes[each])));
  if (outcome === "completed") {
    const missingBytes = isWholeAtHandover(mode) ? 0 : (pages.demanded + pages.pushed) * PAGE_BYTES;
    rows.push(["  it took"].concat(costsOf({ downtimeMs, totalMs, trafficBytes: sent.total, missingBytes, converges: true })));
  }
  const { memoryBytes, writtenBytesPerSecond, bytesPerSecond } = prediction.measured;
  const measured = `${bytes(memoryBytes)} of memory, ${bytes(writtenBytesPerSecond)}/s written, ${bytes(bytesPerSecond)}/s to the target`;
  const lines = table(["Predicted", "downtime", "total", "sent", "after the handover"], rows, paint);
  return [...lines.map((line) => `  ${line}`), paint("quiet", `  Measured: ${measured}`), ""];
}

function costsOf({ downtimeMs, totalMs, trafficBytes, missingBytes, converges }: Forecast): string[] {
  if (!converges) return ["does not converge"];
  return [duration(downtimeMs), duration(totalMs), bytes(trafficBytes), bytes(missingBytes)];
}

function amounts({ bytes: sent, pages, rounds, plans, verification, totalMs }: Report, paint: Paint): string[] {
  const kinds = Object.entries(kindsOf(sent)).map(([kind, sum]) => `${kind} ${bytes(sum)}`);
  const rate = totalMs > 0 ? `, ${bytes((sent.total / totalMs) * 1000)}/s` : "";
  const lines = [`  ${paint("quiet", "sent")}   ${bytes(sent.total)}${rate}: ${kinds.join(", ")}`];
  if (pages.total > 0) {
    const { copiedAhead, demanded, pushed, zero, waits } = pages;
    const ways = `${count(copiedAhead)} copied ahead, ${count(demanded)} demanded, ${count(pushed)} pushed, ${count(zero)} zero`;
    lines.push(`  ${paint("quiet", "pages")}  ${plural(pages.total, "page")}: ${ways}`);
    const last = rounds.at(-1);
    if (last !== undefined) {
      const sum = rounds.reduce((all, { pageCount }) => all + pageCount, 0);
      lines.push(
        `         ${plural(rounds.length, "round")} copied ${count(sum)}; ${count(last.writtenCount)} were written since the last began`,
      );
    }
    const [middle, most] = [duration(waits.p50Ms), duration(waits.p99Ms)];
    if (waits.count > 0)
      lines.push(`         tasks waited ${plural(waits.count, "time")} for one: ${middle} in the middle, ${most} at 99 %`);
  }
  const last = plans.at(-1);
  if (last !== undefined) lines.push(`  ${paint("quiet", "plan")}   ${planOf(last)} (${plural(plans.length, "plan")} in all)`);
  if (verification !== undefined) {
    const { same, different, released } = verification;
    const wrong = different === 0 ? "" : paint("bad", `, ${count(different)} altered`);
    lines.push(
      `  ${paint("quiet", "proof")}  ${plural(same, "page")} as on the source${wrong}, ${count(released)} given back before they came`,
    );
  }
  return lines;
}
