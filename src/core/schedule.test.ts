/**
 * The schedule in a simulator: streams that become ready at random times, and lanes that ask for the next frame.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { Schedule, TRANSFER_CLASSES, type Lane, type TransferClass } from "./schedule.ts";

const URGENT = ["demanded", "handover"];
const SHARING = { memory: 4, files: 2, layers: 1 } as const;
const FRAME_BYTES = 65_536;

/** A stream with so many frames to send. */
interface Backlog {
  readonly of: TransferClass;
  frames: number;
}

/** Sends one frame of whoever is next; returns whose it was. */
function send(schedule: Schedule<Backlog>, lane: Lane = "shared"): Backlog | undefined {
  let sender: Backlog | undefined;
  schedule.next(lane, (stream) => {
    sender = stream;
    stream.frames -= 1;
    return { byteCount: FRAME_BYTES, hasMore: stream.frames > 0 };
  });
  return sender;
}

function scheduleOf(...streams: readonly Backlog[]): Schedule<Backlog> {
  const schedule = new Schedule<Backlog>();
  for (const stream of streams) schedule.add(stream, stream.of);
  return schedule;
}

const anyClass = fc.constantFrom(...TRANSFER_CLASSES);
/** What happens: a stream gets frames to send, or a lane asks. */
const step = fc.oneof(
  fc.record({ of: anyClass, frames: fc.integer({ min: 1, max: 40 }) }),
  fc.record({ lane: fc.constantFrom<Lane>("reserved", "shared"), count: fc.integer({ min: 1, max: 20 }) }),
);

test("whoever asks gets a frame if there is one for its lane, until nobody has any, and each frame once", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const schedule = new Schedule<Backlog>();
      const waiting = new Set<Backlog>();
      const take = (lane: Lane): void => {
        const carried = [...waiting].filter(({ of }) => lane === "shared" || URGENT.includes(of));
        const sender = send(schedule, lane);
        assert.equal(sender !== undefined, carried.length > 0, "work-conserving");
        if (sender === undefined) return;
        assert.ok(carried.includes(sender));
        if (sender.frames === 0) waiting.delete(sender);
      };
      for (const each of steps) {
        if ("of" in each) {
          const stream = { ...each };
          waiting.add(stream);
          schedule.add(stream, stream.of);
        } else for (let n = 0; n < each.count; n++) take(each.lane);
      }
      while (waiting.size > 0) take("shared");
      assert.equal(send(schedule), undefined);
    }),
  );
});

test("a class that somebody waits for goes before all behind it, but for one frame in sixteen", () => {
  fc.assert(
    fc.property(fc.array(anyClass, { minLength: 1, maxLength: 12 }), fc.integer({ min: 16, max: 200 }), (classes, frameCount) => {
      const streams = classes.map((of) => ({ of, frames: 1000 }));
      const schedule = scheduleOf(...streams);
      const first = TRANSFER_CLASSES.find((each) => classes.includes(each));
      const isStrict = first !== undefined && !(first in SHARING);
      const sent = Array.from({ length: frameCount }, () => send(schedule)?.of);
      if (!isStrict) return;
      assert.equal(sent[0], first);
      const given = sent.filter((each) => each !== first).length;
      const isAlone = classes.every((each) => each === first);
      assert.equal(given, isAlone ? 0 : Math.floor(frameCount / 16));
    }),
  );
});

test("nobody starves: whoever waits is served within a bound, whatever the others have", () => {
  fc.assert(
    fc.property(fc.uniqueArray(anyClass, { minLength: 2 }), (classes) => {
      const schedule = scheduleOf(...classes.map((of) => ({ of, frames: 100_000 })));
      const last = new Map<TransferClass, number>();
      for (let n = 0; n < 2000; n++) {
        const of = send(schedule)?.of;
        assert.ok(of !== undefined);
        assert.ok(n - (last.get(of) ?? 0) <= 16 * TRANSFER_CLASSES.length, `${of} waited for ${n - (last.get(of) ?? 0)} frames`);
        last.set(of, n);
      }
      assert.deepEqual([...last.keys()].toSorted(), classes.toSorted());
    }),
  );
});

test("memory, files and layers share by weight, also after some of them had nothing to send", () => {
  const streams = { memory: { of: "memory", frames: 0 }, files: { of: "files", frames: 0 }, layers: { of: "layers", frames: 0 } } as const;
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 300 }),
      fc.constantFrom(...(Object.keys(SHARING) as (keyof typeof SHARING)[])),
      (count, alone) => {
        const all = Object.values(streams).map(({ of }): Backlog => ({ of, frames: 100_000 }));
        const first = all.find(({ of }) => of === alone);
        assert.ok(first !== undefined);
        const schedule = scheduleOf(first);
        for (let n = 0; n < count; n++) send(schedule);
        for (const stream of all) schedule.add(stream, stream.of);
        const shares = { memory: 0, files: 0, layers: 0 };
        for (let n = 0; n < 700; n++) {
          const of = send(schedule)?.of;
          if (of === "memory" || of === "files" || of === "layers") shares[of] += 1;
        }
        for (const [of, weight] of Object.entries(SHARING))
          assert.ok(
            Math.abs(shares[of as keyof typeof SHARING] - weight * 100) <= 2,
            `${of}: ${shares[of as keyof typeof SHARING]} of 700`,
          );
      },
    ),
  );
});

test("streams of one class take turns", () => {
  const streams = Array.from({ length: 3 }, (): Backlog => ({ of: "files", frames: 10 }));
  const schedule = scheduleOf(...streams);
  const sent = Array.from({ length: 30 }, () => send(schedule)).map((sender) => sender !== undefined && streams.indexOf(sender));
  assert.deepEqual(
    sent,
    Array.from({ length: 30 }, (_, n) => n % 3),
  );
});

test("the reserved lane carries only what somebody waits for", () => {
  for (const of of TRANSFER_CLASSES) {
    const stream: Backlog = { of, frames: 1 };
    assert.equal(send(scheduleOf(stream), "reserved"), URGENT.includes(of) ? stream : undefined);
  }
});

test("a stream that has nothing to send any more is passed over", () => {
  const [gone, other]: Backlog[] = [
    { of: "memory", frames: 1 },
    { of: "memory", frames: 1 },
  ];
  assert.ok(gone !== undefined && other !== undefined);
  const schedule = scheduleOf(gone, other);
  const asked: Backlog[] = [];
  schedule.next("shared", (stream) => {
    asked.push(stream);
    return { byteCount: 0, hasMore: false };
  });
  assert.deepEqual(asked, [gone]);
  assert.equal(send(schedule), other);
  assert.equal(send(schedule), undefined);
});
