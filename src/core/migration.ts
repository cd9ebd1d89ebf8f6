/**
 * What a migration is made of: its phases, its states, the events it emits and the report it ends with.
 */
import type { ContainerId, HostName, MigrationId } from "./ids.ts";
import type { Prediction } from "./prediction.ts";

/** The phases in their order; DESIGN calls this line "one migration". */
export const PHASES = ["preflight", "reserve", "copy", "stage", "freeze", "handover", "post-copy", "finish"] as const;
/** A phase of a migration. */
export type Phase = (typeof PHASES)[number];

/**
 * How memory crosses. docs/modes.md tells which is for what.
 *
 * - `warm`: in rounds while the container runs on the source, and after the handover what was written since.
 * - `post-copy`: all of it after the handover.
 * - `pre-copy`: in rounds until little is left, and that while the container stands still: at the handover nothing is missing.
 * - `stop-and-copy`: all of it while the container stands still.
 */
export const MODES = ["warm", "post-copy", "pre-copy", "stop-and-copy"] as const;
export type Mode = (typeof MODES)[number];

/** What a user may ask for: `auto` leaves the choice to a prediction (src/core/prediction.ts). */
export const REQUESTABLE_MODES = ["auto", ...MODES] as const;
export type RequestableMode = (typeof REQUESTABLE_MODES)[number];

/** The modes that copy memory in rounds while the container runs on the source. */
export function copiesAhead(mode: RequestableMode): boolean {
  return mode === "warm" || mode === "pre-copy";
}

/** The modes in which all memory is on the target before that owns the container. */
export function isWholeAtHandover(mode: RequestableMode): boolean {
  return mode === "pre-copy" || mode === "stop-and-copy";
}

/** Bytes that crossed, by what they were for. */
export interface ByteCounts {
  readonly memory: number;
  readonly files: number;
  readonly layers: number;
  readonly metadata: number;
}

export function totalBytes({ memory, files, layers, metadata }: ByteCounts): number {
  return memory + files + layers + metadata;
}

/** For how long tasks waited for pages that were not there, each from its fault to its page. */
export interface PageWaits {
  readonly count: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

/** Pages that crossed or need not cross, 4096 bytes each. `total` is the sum of the other counts. */
export interface PageCounts {
  /** Lazy pages of the container at the freeze. */
  readonly total: number;
  /** Sent while the source still ran. */
  readonly copiedAhead: number;
  /** Sent because the running container touched them. */
  readonly demanded: number;
  /** Sent without being asked for. */
  readonly pushed: number;
  /** Never sent, because they are zeros by now: their tasks gave them back before they were due. */
  readonly zero: number;
  /** Of faults on pages that had yet to come from the source. */
  readonly waits: PageWaits;
}

/** Of a migration that has had none. */
export const NO_PAGES: PageCounts = {
  total: 0,
  copiedAhead: 0,
  demanded: 0,
  pushed: 0,
  zero: 0,
  waits: { count: 0, p50Ms: 0, p99Ms: 0, maxMs: 0 },
};

/** What a comparison of lazy pages between source and target has shown. The sum is the total of `PageCounts`. */
export interface PageVerification {
  /** Given to the tasks on the target as they are on the source. */
  readonly same: number;
  /** Given to them with other bytes. */
  readonly different: number;
  /** Never given to them: they gave the pages back before these were due. */
  readonly released: number;
}

/** A round of private memory that was copied while the container ran, in milliseconds since the migration began. */
export interface MemoryRound {
  readonly startMs: number;
  readonly endMs: number;
  /** Pages that were sent, those of zeros among them. */
  readonly pageCount: number;
  /** Pages that were written from its beginning to that of the next one, or to the freeze, as the tracker counts them. */
  readonly writtenCount: number;
}

/** How a migration ended. `rolled-back`: the source runs, the target is clean. `failed`: see the error. */
export type Outcome = "completed" | "rolled-back" | "failed";

/**
 * What a journal keeps of a migration on either side. The state decides alone what an agent that restarts must do:
 *
 * - `running` (source): nothing is committed; the source owns the container; roll back.
 * - `committed` (source): the target owns the container; the source must never run it again by itself.
 * - `prepared` (target): the target holds a restored container that does not run; it must ask the source.
 * - `owner` (target): the target runs the container, pages may still be missing.
 * - `completed`, `rolled-back`, `failed`: ended.
 */
export type JournalState = "running" | "committed" | "prepared" | "owner" | Outcome;

/** What was decided on how the container is copied while it runs (docs/resource-aware-dump.md), from a moment on. */
export interface PlanChange {
  readonly atMs: number;
  /** Processors that the source's agent may use meanwhile, on average. */
  readonly cpuCores: number;
  /** Readers of memory at the same time, and pages that one of them reads at once. */
  readonly workers: number;
  readonly chunkPages: number;
  /** Connections to the target that a trunk has if it is opened then. */
  readonly connections: number;
  /** What may be compressed, where it is worth that. */
  readonly compression: "none" | "zstd";
  /** What decided that, in words. */
  readonly why: string;
}

/** A phase's place on the time line, in milliseconds since the migration began. */
export interface PhaseSpan {
  readonly name: Phase;
  readonly startMs: number;
  readonly endMs: number;
}

/** The contract of `dmigrate report ID --json`. */
export interface Report {
  readonly id: MigrationId;
  /** The container's name. */
  readonly container: string;
  readonly containerId: ContainerId;
  readonly source: HostName;
  readonly target: HostName;
  /** `auto` if it ended before one was chosen. */
  readonly mode: RequestableMode;
  readonly outcome: Outcome;
  readonly totalMs: number;
  /** From the first task frozen on the source to the last one resumed on the target, as the engine saw it; 0 if never frozen. */
  readonly downtimeMs: number;
  readonly phases: readonly PhaseSpan[];
  /** Steps inside the downtime, finer than phases; the waterfall. */
  readonly steps: readonly Step[];
  /** `late` is what crossed of memory because the target asked for it, from the freeze on; `memory` has it, too. */
  readonly bytes: ByteCounts & { readonly total: number; readonly late: number };
  readonly pages: PageCounts;
  /** In modes that copy memory ahead: the last one ends just before the freeze. */
  readonly rounds: readonly MemoryRound[];
  /** How it was copied while it ran, and each change of that: 32 at most. */
  readonly plans: readonly PlanChange[];
  /** What was predicted before memory began to cross; absent if it ended before that. */
  readonly prediction?: Prediction;
  /** Of a migration that was asked for it, if it came so far. */
  readonly verification?: PageVerification;
  readonly warnings: readonly string[];
  readonly error?: { readonly code: string; readonly message: string };
}

/** A named stretch of time inside a phase. Steps may lie beside each other, and have the same name if one is done in pieces. */
export interface Step {
  readonly name: string;
  readonly startMs: number;
  readonly endMs: number;
  /** What it is made of, if that is known. */
  readonly steps?: readonly Step[];
}

/** What a migration says while it runs. `atMs` counts from its beginning. */
export type MigrationEvent =
  | { readonly kind: "phase-began"; readonly atMs: number; readonly phase: Phase }
  | { readonly kind: "phase-ended"; readonly atMs: number; readonly phase: Phase }
  | {
      readonly kind: "progress";
      readonly atMs: number;
      readonly phase: Phase;
      readonly bytes: ByteCounts;
      /** Bytes a second over the last second. */
      readonly rate: number;
      /** Milliseconds until the phase ends, if it can be told. */
      readonly remainingMs?: number;
    }
  | { readonly kind: "planned"; readonly atMs: number; readonly plan: PlanChange }
  | { readonly kind: "predicted"; readonly atMs: number; readonly prediction: Prediction }
  | { readonly kind: "warning"; readonly atMs: number; readonly message: string }
  | { readonly kind: "ended"; readonly atMs: number; readonly report: Report };
