/** What is left of a migration whose agent has ended. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { MigrationEvent } from "./migration.ts";
import { predict } from "./prediction.ts";
import { reportSoFar } from "./report-so-far.ts";

const bytes = { memory: 1, files: 2, layers: 3, metadata: 4 };
const plan = {
  atMs: 20,
  cpuCores: 1,
  workers: 1,
  chunkPages: 256,
  connections: 3,
  compression: "none" as const,
  why: "1.0 of 2 processors are to spare",
};

test("phases, bytes, plans and warnings are as they were told, the last phase as long as it was heard of", () => {
  const events: MigrationEvent[] = [
    { kind: "phase-began", atMs: 0, phase: "preflight" },
    { kind: "warning", atMs: 5, message: "slow" },
    { kind: "phase-ended", atMs: 10, phase: "preflight" },
    { kind: "phase-began", atMs: 10, phase: "copy" },
    { kind: "planned", atMs: 20, plan },
    { kind: "progress", atMs: 200, phase: "copy", bytes: { ...bytes, files: 0 }, rate: 1 },
    { kind: "progress", atMs: 400, phase: "copy", bytes, rate: 1 },
  ];
  assert.deepEqual(reportSoFar(events), {
    phases: [
      { name: "preflight", startMs: 0, endMs: 10 },
      { name: "copy", startMs: 10, endMs: 400 },
    ],
    downtimeMs: 0,
    bytes,
    plans: [plan],
    warnings: ["slow"],
  });
});

test("a migration that said nothing did nothing", () => {
  assert.deepEqual(reportSoFar([]), {
    phases: [],
    downtimeMs: 0,
    bytes: { memory: 0, files: 0, layers: 0, metadata: 0 },
    plans: [],
    warnings: [],
  });
});

test("the downtime is what was told of it", () => {
  const events: MigrationEvent[] = [
    { kind: "phase-began", atMs: 100, phase: "freeze" },
    { kind: "phase-ended", atMs: 180, phase: "freeze" },
    { kind: "phase-began", atMs: 180, phase: "handover" },
    { kind: "phase-ended", atMs: 250, phase: "handover" },
    { kind: "phase-began", atMs: 250, phase: "post-copy" },
    { kind: "progress", atMs: 900, phase: "post-copy", bytes, rate: 1 },
  ];
  assert.equal(reportSoFar(events).downtimeMs, 150);
  assert.equal(reportSoFar(events.slice(0, 2)).downtimeMs, 80);
});

test("what was predicted is kept", () => {
  const measured = {
    memoryBytes: 4096,
    copyableBytes: 4096,
    frozenBytes: 0,
    writtenBytesPerSecond: 0,
    bytesPerSecond: 1,
    elapsedMs: 1,
    sentBytes: 1,
  };
  const prediction = predict({ ...measured, habits: { handoverMs: 1, aroundMs: 1 } }, "auto");
  assert.deepEqual(reportSoFar([{ kind: "predicted", atMs: 1, prediction }]).prediction, prediction);
});
