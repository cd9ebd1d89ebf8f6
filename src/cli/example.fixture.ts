/** A migration of redis from a to b as tests tell it: its events, its report, and an agent that plays them. */
import type { ControlClient, MigrationBegan, StreamedEvent } from "../agent/client.ts";
import { DmigrateError } from "../core/errors.ts";
import { containerId, hostName, migrationId } from "../core/ids.ts";
import type { MigrationEvent, Phase, Report } from "../core/migration.ts";
import { predict, type Prediction } from "../core/prediction.ts";
import type { Output, Surroundings } from "./surroundings.ts";
import { colourless } from "./text.ts";

export const BEGAN: MigrationBegan = {
  kind: "began",
  atMs: 0,
  id: migrationId("m0k3v9x2q7ab1"),
  container: "redis",
  source: hostName("a"),
  target: hostName("b"),
};

export const REPORT: Report = {
  id: BEGAN.id,
  container: BEGAN.container,
  containerId: containerId("4f".repeat(32)),
  source: BEGAN.source,
  target: BEGAN.target,
  mode: "post-copy",
  outcome: "completed",
  totalMs: 4230,
  downtimeMs: 187.4,
  phases: [
    { name: "preflight", startMs: 0, endMs: 96 },
    { name: "reserve", startMs: 96, endMs: 131 },
    { name: "copy", startMs: 131, endMs: 1892 },
    { name: "stage", startMs: 1892, endMs: 2317 },
    { name: "freeze", startMs: 2317, endMs: 2489 },
    { name: "handover", startMs: 2489, endMs: 2507 },
    { name: "post-copy", startMs: 2507, endMs: 4161 },
    { name: "finish", startMs: 4161, endMs: 4230 },
  ],
  steps: [
    { name: "freeze tasks", startMs: 2317, endMs: 2319.4 },
    { name: "last file changes", startMs: 2319.4, endMs: 2331 },
    {
      name: "dump",
      startMs: 2319.4,
      endMs: 2402,
      steps: [
        { name: "mappings", startMs: 2321, endMs: 2341 },
        { name: "cgroups", startMs: 2341, endMs: 2341.7 },
        { name: "pages", startMs: 2342, endMs: 2362 },
        { name: "mappings", startMs: 2362, endMs: 2372 },
        { name: "network namespace", startMs: 2380, endMs: 2400 },
      ],
    },
    { name: "restore", startMs: 2402, endMs: 2489 },
    { name: "commit", startMs: 2489, endMs: 2504.4, steps: [{ name: "engine takes over", startMs: 2489, endMs: 2503 }] },
  ],
  bytes: { memory: 607_300_000, files: 1_240_000, layers: 43_700_000, metadata: 1_310_000, total: 653_550_000, late: 607_300_000 },
  pages: {
    total: 148_249,
    copiedAhead: 0,
    demanded: 3121,
    pushed: 144_907,
    zero: 221,
    waits: { count: 2988, p50Ms: 1.1, p99Ms: 4.2, maxMs: 9.3 },
  },
  rounds: [],
  plans: [],
  warnings: [],
};

/** What was predicted of a migration of that redis by `auto`. */
export const PREDICTION: Prediction = predict(
  {
    memoryBytes: 607_000_000,
    copyableBytes: 607_000_000,
    frozenBytes: 100_000,
    writtenBytesPerSecond: 80_000_000,
    bytesPerSecond: 400_000_000,
    habits: { handoverMs: 200, aroundMs: 500 },
    elapsedMs: 1500,
    sentBytes: 45_000_000,
  },
  "auto",
);

/** The same migration, cancelled while it copied. */
export const CANCELLED: Report = {
  ...REPORT,
  outcome: "rolled-back",
  totalMs: 700,
  downtimeMs: 0,
  phases: [...REPORT.phases.slice(0, 2), { name: "copy", startMs: 131, endMs: 700 }],
  steps: [],
  bytes: { memory: 0, files: 240_000, layers: 12_000_000, metadata: 9000, total: 12_249_000, late: 0 },
  pages: { total: 0, copiedAhead: 0, demanded: 0, pushed: 0, zero: 0, waits: { count: 0, p50Ms: 0, p99Ms: 0, maxMs: 0 } },
  error: { code: "CANCELLED", message: "The migration was cancelled; start it again when it suits" },
};

/** What the agent says until the report: each phase begins, tells of bytes if it takes long, and ends. */
export function eventsOf(report: Report): StreamedEvent[] {
  return [BEGAN, ...report.phases.flatMap((span) => phaseEvents(span.name, span.startMs, span.endMs, report)), ended(report)];
}

const PROGRESS_EVERY_MS = 250;

function phaseEvents(phase: Phase, startMs: number, endMs: number, { bytes, totalMs }: Report): MigrationEvent[] {
  const events: MigrationEvent[] = [{ kind: "phase-began", phase, atMs: startMs }];
  for (let atMs = startMs + PROGRESS_EVERY_MS; atMs < endMs; atMs += PROGRESS_EVERY_MS) {
    const part = atMs / totalMs;
    const soFar = { memory: bytes.memory * part, files: bytes.files * part, layers: bytes.layers * part, metadata: bytes.metadata * part };
    events.push({ kind: "progress", phase, atMs, bytes: soFar, rate: (bytes.total / totalMs) * 1000, remainingMs: endMs - atMs });
  }
  return [...events, { kind: "phase-ended", phase, atMs: endMs }];
}

function ended(report: Report): MigrationEvent {
  return { kind: "ended", atMs: report.totalMs, report };
}

const cannot = (): never => {
  throw new DmigrateError("AGENT_UNREACHABLE", "No agent answers at /run/dmigrate/agent.sock; start it with `dmigrate agent`");
};

/** An agent that can do what it is given, and nothing else. */
export function agentThat(can: Partial<ControlClient>): ControlClient {
  return {
    status: cannot,
    migrate: cannot,
    check: cannot,
    watch: cannot,
    cancel: cannot,
    list: cannot,
    report: cannot,
    init: cannot,
    addHost: cannot,
    removeHost: cannot,
    hosts: cannot,
    [Symbol.dispose]: () => {},
    ...can,
  };
}

/** Surroundings whose outputs are kept, with a keyboard that `pressCtrlC` presses. */
export interface Stage extends Surroundings {
  readonly out: Output & { readonly text: string };
  readonly err: Output & { readonly text: string };
  pressCtrlC(): void;
}

export function stage(client: ControlClient, shape: Partial<Pick<Output, "isTerminal" | "columns" | "rows">> = {}): Stage {
  const listeners = new Set<() => void>();
  return {
    out: kept(shape),
    err: kept(shape),
    connect: async () => client,
    serve: () => Promise.reject(new DmigrateError("AGENT", "Another agent runs on this host; end it first")),
    guard: () => Promise.reject(new DmigrateError("AGENT", "Another agent runs on this host; it lets the container run on")),
    now: () => Date.UTC(2026, 0, 2, 3, 4, 5),
    onInterrupt: (listener) => {
      listeners.add(listener);
      return { [Symbol.dispose]: () => void listeners.delete(listener) };
    },
    pressCtrlC: () => {
      for (const listener of listeners) listener();
    },
  };
}

function kept(shape: Partial<Output>): Output & { readonly text: string } {
  let text = "";
  return {
    isTerminal: false,
    columns: 100,
    rows: 40,
    paint: colourless,
    ...shape,
    write: (more) => void (text += more),
    get text() {
      return text;
    },
  };
}
