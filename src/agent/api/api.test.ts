/** Errors and events across calls: what is thrown or told on one side is the same on the other. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import * as fc from "fast-check";
import { joinedAgents, type TestAgent } from "../../../test/support/agents.ts";
import { collect } from "../../../test/support/streams.ts";
import { DmigrateError, ERROR_CODES, type ErrorCode } from "../../core/errors.ts";
import { containerId, hostName, newMigrationId } from "../../core/ids.ts";
import { MODES, PHASES, REQUESTABLE_MODES, type Report, type Step } from "../../core/migration.ts";
import type { Forecast, Measured, Prediction } from "../../core/prediction.ts";
import { EventSchema } from "../../gen/dmigrate/v1/types_pb.js";
import { reasonOf } from "../causes.ts";
import type { StreamedEvent } from "../migrations.ts";
import { eventFromProto, eventToProto } from "./convert.ts";
import { fromConnectError, toConnectError } from "./errors.ts";

const b = hostName("b");
const codes = Object.keys(ERROR_CODES) as ErrorCode[];
const lost = (): DmigrateError => new DmigrateError("PEER_UNREACHABLE", "lost");

test("an error of every code is the same for a user, a watcher and a peer, who learns which host is to be mended", async (t) => {
  let failure = new DmigrateError("INTERNAL", "not set");
  const failing = (): Promise<never> => Promise.reject(failure);
  const [first] = (await joinedAgents(t, {
    a: () => ({ migrations: { check: failing, migrate: failing } }),
    b: () => ({ targets: { facts: failing } }),
  })) as [TestAgent];
  for (const code of codes) {
    failure = new DmigrateError(code, `Cause of ${code}; remedy für ${code}`, new Error("beneath"));
    const same = { name: "DmigrateError", code, message: failure.message, fault: failure.fault, exitCode: failure.exitCode };
    await assert.rejects(first.client.check("web", b, "auto"), same);
    await assert.rejects(
      collect(first.client.migrate({ container: "web", target: b, mode: "post-copy", keepSource: false, verify: false })),
      same,
    );
    const message = ["host", "bug"].includes(failure.fault) ? `On b: ${failure.message}` : failure.message;
    await assert.rejects(first.context.peers.to(b).facts({}), { ...same, message });
  }
});

test("whatever else a handler throws is a bug with its message", async (t) => {
  const [first] = (await joinedAgents(t, {
    a: () => ({ migrations: { check: () => Promise.reject(new TypeError("x is undefined")) } }),
    b: () => ({}),
  })) as [TestAgent];
  await assert.rejects(first.client.check("web", b, "auto"), { code: "INTERNAL", message: "x is undefined" });
});

test("errors of the transport tell what happened", () => {
  const cases: [unknown, ErrorCode][] = [
    [new ConnectError("late", Code.DeadlineExceeded), "TIMEOUT"],
    [new ConnectError("no such method", Code.Unimplemented), "PROTOCOL"],
    [new ConnectError("reset", Code.Unavailable), "PEER_UNREACHABLE"],
    [new ConnectError("reset", Code.Canceled), "PEER_UNREACHABLE"],
    [new Error("socket hang up"), "PEER_UNREACHABLE"],
  ];
  for (const [thrown, code] of cases) assert.equal(fromConnectError(thrown, lost).code, code, String(thrown));
  assert.equal(fromConnectError(new ConnectError("gone", Code.Canceled), lost, AbortSignal.abort()).code, "CANCELLED");
});

test("the reason of a failed call is what failed, without what wrapped it", () => {
  const refused = new Error("connect ECONNREFUSED 127.0.0.1:1");
  assert.equal(reasonOf(new ConnectError("wrapped", Code.Unavailable, undefined, undefined, refused)), refused.message);
  assert.equal(reasonOf(new ConnectError("PING timed out", Code.Unavailable)), "it gives no sign of life");
  assert.equal(reasonOf(new ConnectError("http/2 stream closed with error code CANCEL (0x8)", Code.Canceled)), "the connection was closed");
  assert.equal(reasonOf("thrown text"), "thrown text");
});

test("an error's code does not depend on what carries it", () => {
  for (const code of codes) {
    const error = fromConnectError(toConnectError(new DmigrateError(code, "cause; remedy")), lost);
    assert.deepEqual([error.code, error.message], [code, "cause; remedy"]);
  }
});

const id = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(newMigrationId);
const host = fc.stringMatching(/^[a-z0-9]{1,20}$/).map(hostName);
const phase = fc.constantFrom(...PHASES);
const ms = fc.double({ min: 0, noNaN: true, noDefaultInfinity: true });
const count = fc.maxSafeNat();
const small = fc.nat();
const span = { startMs: ms, endMs: ms };
const message = fc.string({ unit: "grapheme" });
/** Records as literals make them. */
const record = <T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }): fc.Arbitrary<T> =>
  fc.record(model, { noNullPrototype: true }) as fc.Arbitrary<T>;

const bytes = record({ memory: small, files: small, layers: small, metadata: small });

const plan = record({
  atMs: ms,
  cpuCores: ms,
  workers: small,
  chunkPages: small,
  connections: small,
  compression: fc.constantFrom("none" as const, "zstd" as const),
  why: message,
});
const part = record({ name: message, ...span });
const step = fc.oneof(part, record<Step>({ name: message, ...span, steps: fc.array(part, { minLength: 1 }) }));

const mode = fc.constantFrom(...MODES);
const forecast = record<Forecast>({ downtimeMs: ms, totalMs: ms, trafficBytes: count, missingBytes: count, converges: fc.boolean() });
const predicted = {
  requested: fc.constantFrom(...REQUESTABLE_MODES),
  measured: record<Measured>({
    memoryBytes: count,
    copyableBytes: count,
    frozenBytes: count,
    writtenBytesPerSecond: ms,
    bytesPerSecond: ms,
    habits: record({ handoverMs: ms, aroundMs: ms }),
    elapsedMs: ms,
    sentBytes: count,
  }),
  modes: record({ warm: forecast, "post-copy": forecast, "pre-copy": forecast, "stop-and-copy": forecast }),
};
const predictions: fc.Arbitrary<Prediction> = fc.oneof(
  record<Prediction>(predicted),
  record<Required<Prediction>>({ ...predicted, maxDowntimeMs: ms, mode }),
);

const report: { [K in keyof Omit<Report, "error" | "prediction" | "verification">]: fc.Arbitrary<Report[K]> } = {
  id,
  container: message,
  containerId: fc.stringMatching(/^[0-9a-f]{64}$/).map(containerId),
  source: host,
  target: host,
  mode: fc.constantFrom(...REQUESTABLE_MODES),
  outcome: fc.constantFrom("completed", "rolled-back", "failed"),
  totalMs: ms,
  downtimeMs: ms,
  phases: fc.array(record({ name: phase, ...span })),
  steps: fc.array(step),
  bytes: record({ memory: small, files: small, layers: small, metadata: small, late: small }).map(
    ({ memory, files, layers, metadata, late }) => {
      return { memory, files, layers, metadata, total: memory + files + layers + metadata, late };
    },
  ),
  pages: record({
    total: count,
    copiedAhead: count,
    demanded: count,
    pushed: count,
    zero: count,
    waits: record({ count, p50Ms: ms, p99Ms: ms, maxMs: ms }),
  }),
  rounds: fc.array(record({ ...span, pageCount: count, writtenCount: count })),
  plans: fc.array(plan),
  warnings: fc.array(message),
};
const reports: fc.Arbitrary<Report> = fc.oneof(
  record<Omit<Report, "error" | "prediction" | "verification">>(report),
  record<Required<Report>>({
    ...report,
    prediction: predictions,
    error: record({ code: message, message }),
    verification: record({ same: count, different: count, released: count }),
  }),
);

const events: fc.Arbitrary<StreamedEvent> = fc.oneof(
  record<StreamedEvent & { kind: "began" }>({
    kind: fc.constant("began"),
    atMs: fc.constant(0),
    id,
    container: message,
    source: host,
    target: host,
  }),
  record<StreamedEvent & { kind: "phase-began" }>({ kind: fc.constant("phase-began"), atMs: ms, phase }),
  record<StreamedEvent & { kind: "phase-ended" }>({ kind: fc.constant("phase-ended"), atMs: ms, phase }),
  record<Omit<StreamedEvent & { kind: "progress" }, "remainingMs">>({ kind: fc.constant("progress"), atMs: ms, phase, bytes, rate: ms }),
  record<Required<StreamedEvent & { kind: "progress" }>>({
    kind: fc.constant("progress"),
    atMs: ms,
    phase,
    bytes,
    rate: ms,
    remainingMs: ms,
  }),
  record<StreamedEvent & { kind: "planned" }>({ kind: fc.constant("planned"), atMs: ms, plan }),
  record<StreamedEvent & { kind: "predicted" }>({ kind: fc.constant("predicted"), atMs: ms, prediction: predictions }),
  record<StreamedEvent & { kind: "warning" }>({ kind: fc.constant("warning"), atMs: ms, message }),
  record<StreamedEvent & { kind: "ended" }>({ kind: fc.constant("ended"), atMs: ms, report: reports }),
);

test("events are the same on both sides", () => {
  fc.assert(
    fc.property(events, (event) => {
      const wire = toBinary(EventSchema, create(EventSchema, eventToProto(event)));
      assert.deepEqual(eventFromProto(fromBinary(EventSchema, wire)), event);
    }),
  );
});

test("what this release does not know is refused, not guessed", () => {
  const unknown = create(EventSchema, { atMs: 1, kind: { case: "phaseBegan", value: "teleport" } });
  assert.throws(() => eventFromProto(unknown), { code: "PROTOCOL", message: /unknown phase, "teleport"/ });
  assert.throws(() => eventFromProto(create(EventSchema, { atMs: 1 })), { code: "PROTOCOL" });
});
