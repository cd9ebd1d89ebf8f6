/** Frames, however the bytes are cut. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { DmigrateError, ERROR_CODES, type ErrorCode } from "../core/errors.ts";
import { DATA_BYTES_MAX, dataHeader, END_FRAME, failedFrame, FAILURE_BYTES_MAX, FrameDecoder, OK_FRAME, type FramePart } from "./frames.ts";

type Sent = { kind: "data"; bytes: Uint8Array } | { kind: "end" } | { kind: "ok" } | { kind: "failed"; code: ErrorCode; message: string };

const frames: fc.Arbitrary<Sent> = fc.oneof(
  fc.uint8Array({ minLength: 1, maxLength: 300 }).map((bytes): Sent => ({ kind: "data", bytes })),
  fc.constant<Sent>({ kind: "end" }),
  fc.constant<Sent>({ kind: "ok" }),
  fc
    .record({ code: fc.constantFrom(...(Object.keys(ERROR_CODES) as ErrorCode[])), message: fc.string({ unit: "grapheme" }) })
    .map(({ code, message }): Sent => ({ kind: "failed", code, message })),
);

function encode(frame: Sent): Uint8Array {
  switch (frame.kind) {
    case "data":
      return Buffer.concat([dataHeader(frame.bytes.length), frame.bytes]);
    case "end":
      return END_FRAME;
    case "ok":
      return OK_FRAME;
    case "failed":
      return failedFrame(new DmigrateError(frame.code, frame.message));
  }
}

/** Cuts bytes at the given places. */
function cut(bytes: Uint8Array, places: readonly number[]): Uint8Array[] {
  const at = [0, ...places.map((place) => place % (bytes.length + 1)).toSorted((a, b) => a - b), bytes.length];
  return at.slice(1).map((end, n) => bytes.subarray(at[n], end));
}

/** What was received, in the terms of what was sent: adjacent data joined, since frames do not show. */
function summary(parts: readonly (FramePart | Sent)[]): unknown[] {
  const all: unknown[] = [];
  let data: Uint8Array[] = [];
  for (const part of [...parts, undefined]) {
    if (part?.kind === "data") {
      data.push(part.bytes);
      continue;
    }
    if (data.length > 0) all.push(Buffer.concat(data).toString("hex"));
    data = [];
    if (part?.kind === "failed") all.push("error" in part ? [part.error.code, part.error.message] : [part.code, part.message]);
    else if (part !== undefined) all.push(part.kind);
  }
  return all;
}

test("frames are read as they were written, however the bytes are cut", () => {
  fc.assert(
    fc.property(fc.array(frames), fc.array(fc.nat(), { maxLength: 40 }), (sent, places) => {
      const decoder = new FrameDecoder();
      const received = cut(Buffer.concat(sent.map(encode)), places).flatMap((chunk) => Array.from(decoder.decode(chunk)));
      assert.deepEqual(summary(received), summary(sent));
    }),
  );
});

test("byte by byte, and who reads only the missing bytes ends at each frame's end", () => {
  fc.assert(
    fc.property(fc.array(frames, { maxLength: 8 }), (sent) => {
      const bytes = Buffer.concat(sent.map(encode));
      const single = new FrameDecoder();
      const exact = new FrameDecoder();
      const bySingles = Array.from(bytes, (_, n) => [...single.decode(bytes.subarray(n, n + 1))]).flat();
      const byMissing: FramePart[] = [];
      for (let at = 0; at < bytes.length;) {
        const chunk = bytes.subarray(at, at + exact.missingBytes);
        assert.equal(chunk.length, exact.missingBytes);
        at += chunk.length;
        byMissing.push(...exact.decode(chunk));
      }
      assert.deepEqual(summary(bySingles), summary(sent));
      assert.deepEqual(summary(byMissing), summary(sent));
    }),
  );
});

test("data is a view of what was received, not a copy", () => {
  const bytes = Buffer.concat([dataHeader(5), Buffer.from("abcde")]);
  const [part] = new FrameDecoder().decode(bytes);
  assert.ok(part?.kind === "data" && part.bytes.buffer === bytes.buffer);
});

test("anything at all is either frames or refused with PROTOCOL", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      try {
        for (const part of new FrameDecoder().decode(bytes)) assert.ok(part.kind.length > 0);
      } catch (error) {
        assert.ok(error instanceof DmigrateError && error.code === "PROTOCOL", String(error));
      }
    }),
  );
});

test("unknown kinds, wrong lengths and malformed failures are refused", () => {
  const bad = [
    [9, 0, 0, 0],
    [0, 0, 0, 0],
    [1, 0, 0, 1],
    [2, 0, 0, 1],
    [3, 0, 0, 0],
    [3, 1, 0, 0],
    [3, 0, 0, 2, 0x7b, 0x7d],
    [3, 0, 0, 1, 0x7b],
  ];
  for (const bytes of bad) assert.throws(() => [...new FrameDecoder().decode(Uint8Array.from(bytes))], { code: "PROTOCOL" }, String(bytes));
});

test("a code of a newer release keeps its message", () => {
  const payload = Buffer.from(JSON.stringify({ code: "FUTURE", message: "cause; remedy" }));
  const [part] = new FrameDecoder().decode(Buffer.concat([Uint8Array.of(3, 0, 0, payload.length), payload]));
  assert.ok(part?.kind === "failed" && part.error.code === "PROTOCOL" && part.error.message === "cause; remedy (FUTURE)");
});

test("a message of any length fits a failed frame", () => {
  for (const message of ["\0".repeat(100_000), "€".repeat(100_000), "a".repeat(100_000)]) {
    const frame = failedFrame(new DmigrateError("DOCKER", message));
    assert.ok(frame.length <= FAILURE_BYTES_MAX);
    const [part] = new FrameDecoder().decode(frame);
    assert.ok(part?.kind === "failed" && message.startsWith(part.error.message));
  }
});

test("a data frame has at least one byte and at most its limit", () => {
  assert.throws(() => dataHeader(0), RangeError);
  assert.throws(() => dataHeader(DATA_BYTES_MAX + 1), RangeError);
  assert.deepEqual([...dataHeader(DATA_BYTES_MAX)], [0, 0xff, 0xff, 0xff]);
});
