/**
 * Between the core's types and the protocol's messages. What comes in is checked; PROTOCOL if it is not what this release knows.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { z } from "zod";
import { DmigrateError, messageOf } from "../../core/errors.ts";
import { containerId, hostName, migrationId } from "../../core/ids.ts";
import {
  MODES,
  PHASES,
  REQUESTABLE_MODES,
  type ByteCounts,
  type JournalState,
  type MigrationEvent,
  type MemoryRound,
  type Mode,
  type PageCounts,
  type PlanChange,
  type PageVerification,
  type Report,
  type Step,
} from "../../core/migration.ts";
import type { Forecast, Prediction } from "../../core/prediction.ts";
import type { FinishResponseSchema, Member as MemberMessage, MemberSchema, RestoreResponseSchema } from "../../gen/dmigrate/v1/peer_pb.js";
import type * as pb from "../../gen/dmigrate/v1/types_pb.js";
import type {
  MemoryRoundSchema,
  EventSchema,
  PageCountsSchema,
  PageVerificationSchema,
  PredictionSchema,
  ReportSchema,
  SpanSchema,
} from "../../gen/dmigrate/v1/types_pb.js";
import { SAME_RELEASE } from "../../wire/failure.ts";
import { formatAddress, parsePeerAddress } from "../address.ts";
import type { Member } from "../cluster.ts";
import type { Finished, Restored, StreamedEvent } from "../migrations.ts";

/** The text, if it is one of those. */
export function oneOf<T extends string>(known: readonly T[], text: string, what: string): T {
  const found = known.find((each) => each === text);
  if (found === undefined)
    throw new DmigrateError("PROTOCOL", `An agent sent an unknown ${what}, ${JSON.stringify(text)}; ${SAME_RELEASE}`);
  return found;
}

/** The message, if it is there. */
export function present<T>(message: T | undefined, what: string): T {
  if (message === undefined) throw new DmigrateError("PROTOCOL", `An agent sent no ${what}; ${SAME_RELEASE}`);
  return message;
}

export const JOURNAL_STATES: readonly JournalState[] = ["running", "committed", "prepared", "owner", "completed", "rolled-back", "failed"];

export function eventToProto(event: StreamedEvent): MessageInitShape<typeof EventSchema> {
  const { atMs } = event;
  switch (event.kind) {
    case "began":
      return { atMs, kind: { case: "began", value: event } };
    case "phase-began":
      return { atMs, kind: { case: "phaseBegan", value: event.phase } };
    case "phase-ended":
      return { atMs, kind: { case: "phaseEnded", value: event.phase } };
    case "progress": {
      const { phase, rate, remainingMs } = event;
      return {
        atMs,
        kind: {
          case: "progress",
          value: { phase, rate, bytes: bytesToProto(event.bytes), ...(remainingMs === undefined ? {} : { remainingMs }) },
        },
      };
    }
    case "planned":
      return { atMs, kind: { case: "planned", value: event.plan } };
    case "predicted":
      return { atMs, kind: { case: "predicted", value: predictionToProto(event.prediction) } };
    case "warning":
      return { atMs, kind: { case: "warning", value: event.message } };
    case "ended":
      return { atMs, kind: { case: "ended", value: reportToProto(event.report) } };
  }
}

export function eventFromProto({ atMs, kind }: pb.Event): StreamedEvent {
  switch (kind.case) {
    case "began": {
      const { id, container, source, target } = kind.value;
      return { kind: "began", atMs: 0, id: migrationId(id), container, source: hostName(source), target: hostName(target) };
    }
    case "phaseBegan":
      return { kind: "phase-began", atMs, phase: oneOf(PHASES, kind.value, "phase") };
    case "phaseEnded":
      return { kind: "phase-ended", atMs, phase: oneOf(PHASES, kind.value, "phase") };
    case "progress":
      return { kind: "progress", atMs, ...progressFromProto(kind.value) };
    case "planned":
      return { kind: "planned", atMs, plan: planFromProto(kind.value) };
    case "predicted":
      return { kind: "predicted", atMs, prediction: predictionFromProto(kind.value) };
    case "warning":
      return { kind: "warning", atMs, message: kind.value };
    case "ended":
      return { kind: "ended", atMs, report: reportFromProto(kind.value) };
    case undefined:
      throw new DmigrateError("PROTOCOL", `An agent sent an event of an unknown kind; ${SAME_RELEASE}`);
  }
}

function progressFromProto({ phase, rate, bytes, remainingMs }: pb.Progress): Omit<MigrationEvent & { kind: "progress" }, "kind" | "atMs"> {
  return {
    phase: oneOf(PHASES, phase, "phase"),
    rate,
    bytes: bytesFromProto(bytes),
    ...(remainingMs === undefined ? {} : { remainingMs }),
  };
}

export function reportToProto(report: Report): MessageInitShape<typeof ReportSchema> {
  const { phases, steps, bytes, pages, rounds, plans, verification, warnings, prediction, ...rest } = report;
  return {
    ...rest,
    ...(prediction === undefined ? {} : { prediction: predictionToProto(prediction) }),
    phases: [...phases],
    steps: stepsToProto(steps),
    bytes: bytesToProto(bytes),
    lateBytes: BigInt(bytes.late),
    pages: pagesToProto(pages),
    rounds: rounds.map(roundToProto),
    plans: [...plans],
    ...(verification === undefined ? {} : { verification: verificationToProto(verification) }),
    warnings: [...warnings],
  };
}

export function reportFromProto(report: pb.Report): Report {
  const { container, totalMs, downtimeMs, verification, warnings, prediction, error } = report;
  const bytes = bytesFromProto(report.bytes);
  return {
    id: migrationId(report.id),
    container,
    containerId: containerId(report.containerId),
    source: hostName(report.source),
    target: hostName(report.target),
    mode: oneOf(REQUESTABLE_MODES, report.mode, "mode"),
    outcome: oneOf(["completed", "rolled-back", "failed"], report.outcome, "outcome"),
    totalMs,
    downtimeMs,
    phases: report.phases.map(({ name, startMs, endMs }) => ({ name: oneOf(PHASES, name, "phase"), startMs, endMs })),
    steps: stepsFromProto(report.steps),
    bytes: { ...bytes, total: bytes.memory + bytes.files + bytes.layers + bytes.metadata, late: Number(report.lateBytes) },
    pages: pagesFromProto(report.pages),
    rounds: report.rounds.map(roundFromProto),
    plans: report.plans.map(planFromProto),
    ...(prediction === undefined ? {} : { prediction: predictionFromProto(prediction) }),
    ...(verification === undefined ? {} : { verification: verificationFromProto(verification) }),
    warnings,
    ...(error === undefined ? {} : { error: { code: error.code, message: error.message } }),
  };
}

function roundToProto({ startMs, endMs, pageCount, writtenCount }: MemoryRound): MessageInitShape<typeof MemoryRoundSchema> {
  return { startMs, endMs, pageCount: BigInt(pageCount), writtenCount: BigInt(writtenCount) };
}

function roundFromProto({ startMs, endMs, pageCount, writtenCount }: pb.MemoryRound): MemoryRound {
  return { startMs, endMs, pageCount: Number(pageCount), writtenCount: Number(writtenCount) };
}

function planFromProto({ atMs, cpuCores, workers, chunkPages, connections, compression, why }: pb.Plan): PlanChange {
  const kind = oneOf(["none", "zstd"] as const, compression, "compression");
  return { atMs, cpuCores, workers, chunkPages, connections, compression: kind, why };
}

function predictionToProto({ measured, modes, ...rest }: Prediction): MessageInitShape<typeof PredictionSchema> {
  const { memoryBytes, copyableBytes, frozenBytes, sentBytes, habits, ...rates } = measured;
  const counts = {
    memoryBytes: BigInt(memoryBytes),
    copyableBytes: BigInt(copyableBytes),
    frozenBytes: BigInt(frozenBytes),
    sentBytes: BigInt(sentBytes),
  };
  const forecasts = MODES.map((mode) => {
    const { trafficBytes, missingBytes, ...forecast } = modes[mode];
    return [mode, { ...forecast, trafficBytes: BigInt(trafficBytes), missingBytes: BigInt(missingBytes) }] as const;
  });
  return { ...rest, measured: { ...rates, ...habits, ...counts }, modes: Object.fromEntries(forecasts) };
}

function predictionFromProto({ requested, mode, maxDowntimeMs, measured, modes }: pb.Prediction): Prediction {
  const { memoryBytes, copyableBytes, frozenBytes, sentBytes, handoverMs, aroundMs, ...rates } = present(measured, "measurement");
  const forecast = (of: Mode): Forecast => {
    const { downtimeMs, totalMs, trafficBytes, missingBytes, converges } = present(modes[of], `prediction of mode ${of}`);
    return { downtimeMs, totalMs, trafficBytes: Number(trafficBytes), missingBytes: Number(missingBytes), converges };
  };
  return {
    requested: oneOf(REQUESTABLE_MODES, requested, "mode"),
    ...(maxDowntimeMs === undefined ? {} : { maxDowntimeMs }),
    ...(mode === undefined ? {} : { mode: oneOf(MODES, mode, "mode") }),
    measured: {
      memoryBytes: Number(memoryBytes),
      copyableBytes: Number(copyableBytes),
      frozenBytes: Number(frozenBytes),
      sentBytes: Number(sentBytes),
      writtenBytesPerSecond: rates.writtenBytesPerSecond,
      bytesPerSecond: rates.bytesPerSecond,
      elapsedMs: rates.elapsedMs,
      habits: { handoverMs, aroundMs },
    },
    modes: {
      warm: forecast("warm"),
      "post-copy": forecast("post-copy"),
      "pre-copy": forecast("pre-copy"),
      "stop-and-copy": forecast("stop-and-copy"),
    },
  };
}

export function restoredToProto({ steps, pages }: Restored): MessageInitShape<typeof RestoreResponseSchema> {
  return { steps: stepsToProto(steps), ...(pages === undefined ? {} : { pages: pagesToProto(pages) }) };
}

export function stepsToProto(steps: readonly Step[]): MessageInitShape<typeof SpanSchema>[] {
  return steps.map(({ name, startMs, endMs, steps: within = [] }) => ({ name, startMs, endMs, steps: stepsToProto(within) }));
}

export function stepsFromProto(steps: readonly pb.Span[]): Step[] {
  return steps.map(({ name, startMs, endMs, steps: within }) => {
    return { name, startMs, endMs, ...(within.length === 0 ? {} : { steps: stepsFromProto(within) }) };
  });
}

export function finishedToProto({ warnings, restoreSteps }: Finished): MessageInitShape<typeof FinishResponseSchema> {
  return { warnings: [...warnings], restoreSteps: stepsToProto(restoreSteps) };
}

export function pagesToProto({ total, copiedAhead, demanded, pushed, zero, waits }: PageCounts): MessageInitShape<typeof PageCountsSchema> {
  return {
    total: BigInt(total),
    copiedAhead: BigInt(copiedAhead),
    demanded: BigInt(demanded),
    pushed: BigInt(pushed),
    zero: BigInt(zero),
    waits: { ...waits, count: BigInt(waits.count) },
  };
}

export function pagesFromProto(pages: pb.PageCounts | undefined): PageCounts {
  const { total, copiedAhead, demanded, pushed, zero, waits } = present(pages, "page counts");
  const { count, p50Ms, p99Ms, maxMs } = present(waits, "waits for pages");
  return {
    total: Number(total),
    copiedAhead: Number(copiedAhead),
    demanded: Number(demanded),
    pushed: Number(pushed),
    zero: Number(zero),
    waits: { count: Number(count), p50Ms, p99Ms, maxMs },
  };
}

function verificationToProto({ same, different, released }: PageVerification): MessageInitShape<typeof PageVerificationSchema> {
  return { same: BigInt(same), different: BigInt(different), released: BigInt(released) };
}

function verificationFromProto({ same, different, released }: pb.PageVerification): PageVerification {
  return { same: Number(same), different: Number(different), released: Number(released) };
}

function bytesToProto({ memory, files, layers, metadata }: ByteCounts): {
  memory: bigint;
  files: bigint;
  layers: bigint;
  metadata: bigint;
} {
  return { memory: BigInt(memory), files: BigInt(files), layers: BigInt(layers), metadata: BigInt(metadata) };
}

function bytesFromProto(bytes: pb.ByteCounts | undefined): ByteCounts {
  const { memory, files, layers, metadata } = present(bytes, "byte counts");
  return { memory: Number(memory), files: Number(files), layers: Number(layers), metadata: Number(metadata) };
}

/** JSON inside a message. */
export function parseJson<T>(text: string, schema: z.ZodType<T>): T {
  try {
    return schema.parse(JSON.parse(text));
  } catch (error) {
    throw new DmigrateError("PROTOCOL", `An agent sent what this one does not understand: ${messageOf(error)}; ${SAME_RELEASE}`, error);
  }
}

export function memberToProto({ name, address, fingerprint }: Member): MessageInitShape<typeof MemberSchema> {
  return { name, address, fingerprint: Buffer.from(fingerprint, "hex") };
}

export function memberFromProto(member: MemberMessage | undefined): Member {
  const { name, address, fingerprint } = present(member, "member");
  return { name: hostName(name), address: formatAddress(parsePeerAddress(address)), fingerprint: Buffer.from(fingerprint).toString("hex") };
}
