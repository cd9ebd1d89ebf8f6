/**
 * What a migration said before its agent ended: its events are all that is left of what that knew.
 */
import type { ByteCounts, MigrationEvent, Phase, PhaseSpan, PlanChange } from "./migration.ts";
import type { Prediction } from "./prediction.ts";

/** As much of a report as the events tell. */
export interface ReportSoFar {
  /** One that nobody saw end ends with the last event. */
  readonly phases: readonly PhaseSpan[];
  /** From the freeze to the end of the handover, as far as that was told; 0 if it was not frozen. */
  readonly downtimeMs: number;
  /** As of the last progress. */
  readonly bytes: ByteCounts;
  readonly plans: readonly PlanChange[];
  readonly prediction?: Prediction;
  readonly warnings: readonly string[];
}

/** @param events of one migration, in their order */
export function reportSoFar(events: Iterable<MigrationEvent>): ReportSoFar {
  const phases: PhaseSpan[] = [];
  const plans: PlanChange[] = [];
  const warnings: string[] = [];
  let bytes: ByteCounts = { memory: 0, files: 0, layers: 0, metadata: 0 };
  let begun: { readonly name: Phase; readonly startMs: number } | undefined;
  let lastMs = 0;
  let prediction: Prediction | undefined;
  for (const event of events) {
    lastMs = event.atMs;
    switch (event.kind) {
      case "phase-began":
        begun = { name: event.phase, startMs: event.atMs };
        break;
      case "phase-ended":
        if (begun?.name === event.phase) phases.push({ ...begun, endMs: event.atMs });
        begun = undefined;
        break;
      case "progress":
        ({ bytes } = event);
        break;
      case "planned":
        plans.push(event.plan);
        break;
      case "predicted":
        ({ prediction } = event);
        break;
      case "warning":
        warnings.push(event.message);
        break;
      case "ended":
        break;
    }
  }
  if (begun !== undefined) phases.push({ ...begun, endMs: lastMs });
  const frozenAtMs = phases.find(({ name }) => name === "freeze")?.startMs;
  const standing = phases.findLast(({ name }) => name === "freeze" || name === "handover");
  const downtimeMs = frozenAtMs === undefined || standing === undefined ? 0 : standing.endMs - frozenAtMs;
  return { phases, downtimeMs, bytes, plans, ...(prediction === undefined ? {} : { prediction }), warnings };
}
