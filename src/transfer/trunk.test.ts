/** Streams over the connections of a trunk, each as slow as it likes: in order, complete, no more on their way than there is room for. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { type Duplex, duplexPair } from "node:stream";
import { buffer } from "node:stream/consumers";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import * as fc from "fast-check";
import { DmigrateError } from "../core/errors.ts";
import { TRANSFER_CLASSES } from "../core/schedule.ts";
import { encodeTrunkFrame, type TrunkFrame } from "../wire/trunk-frames.ts";
import { WINDOW_BYTES, type TrunkStream } from "./stream.ts";
import { Trunk } from "./trunk.ts";
import { crc32 } from "node:zlib";

interface Two {
  readonly near: Trunk;
  readonly far: Trunk;
  readonly wires: readonly Duplex[];
}

/** Two trunks with so many connections between them; `delay` says how many turns of the event loop a chunk takes on each of them. */
function trunks(serve: (stream: TrunkStream) => void, delays: readonly (() => number)[] = [() => 0, () => 0, () => 0]): Two {
  const near = new Trunk(() => assert.fail("nobody opens streams there"));
  const far = new Trunk(serve);
  const wires = delays.map((delay, index) => {
    const [here, there] = duplexPair({ allowHalfOpen: false });
    near.join(here, index === 0 && delays.length > 1 ? "reserved" : "shared");
    far.join(slowed(there, delay), index === 0 && delays.length > 1 ? "reserved" : "shared");
    return here;
  });
  return { near, far, wires };
}

/** A connection on which what arrives takes some turns of the event loop. */
function slowed(wire: Duplex, delay: () => number): Duplex {
  const push = wire.push.bind(wire);
  let before: Promise<unknown> = Promise.resolve();
  wire.push = (chunk: unknown): boolean => {
    before = before.then(async () => {
      for (let turns = delay(); turns > 0; turns--) await turn();
      push(chunk);
    });
    return true;
  };
  return wire;
}

function echo(stream: TrunkStream): void {
  stream.accept();
  stream.pipe(stream);
}

test("what is written arrives as it was written, over connections of any speed, on many streams at once", async () => {
  const names = fc.constantFrom(...TRANSFER_CLASSES);
  const chunk = fc.oneof(
    { weight: 5, arbitrary: fc.uint8Array({ maxLength: 100 }) },
    { weight: 1, arbitrary: fc.nat(400_000).map((length) => new Uint8Array(length).fill(length)) },
  );
  const streams = fc.array(fc.record({ name: names, chunks: fc.array(chunk, { maxLength: 12 }) }), { minLength: 1, maxLength: 6 });
  const delays = fc.array(fc.array(fc.nat(5), { minLength: 1, maxLength: 5 }), { minLength: 1, maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(streams, delays, async (sent, slowness) => {
      let count = 0;
      const { near, far } = trunks(
        echo,
        slowness.map((turns) => () => turns[(count += 1) % turns.length] ?? 0),
      );
      await Promise.all(
        sent.map(async ({ name, chunks }) => {
          const stream = await near.open(name, name);
          const back = buffer(stream);
          for (const each of chunks) stream.write(each);
          stream.end();
          assert.ok((await back).equals(Buffer.concat(chunks)), name);
        }),
      );
      near.close();
      assert.deepEqual([await near.over, await far.over], [undefined, undefined]);
    }),
    { numRuns: 60 },
  );
});

test("a reader that does not read holds its own stream up, and no other", async () => {
  const opened = new Map<string, TrunkStream>();
  const { near } = trunks((stream) => {
    stream.accept();
    opened.set(stream.name, stream);
  });
  const [stuck, other] = [await near.open("files", "files"), await near.open("layers", "layers")];
  stuck.write(Buffer.alloc(4 * WINDOW_BYTES, 1));
  other.end(Buffer.alloc(2 * WINDOW_BYTES, 2));
  const [stuckThere, otherThere] = [opened.get("files"), opened.get("layers")];
  assert.ok(stuckThere !== undefined && otherThere !== undefined);
  assert.equal((await buffer(otherThere)).length, 2 * WINDOW_BYTES);
  assert.equal(stuckThere.readableLength, WINDOW_BYTES);
  let readBytes = 0;
  stuck.end();
  for await (const chunk of stuckThere) readBytes += (chunk as Buffer).length;
  assert.equal(readBytes, 4 * WINDOW_BYTES);
  near.close();
});

test("what somebody waits for overtakes what has been written before", async () => {
  const arrived: string[] = [];
  const { near } = trunks((stream) => {
    stream.accept();
    stream.on("data", (chunk: Buffer) => arrived.push(...(stream.name === "demanded" ? [stream.name] : [`${chunk.length}`])));
    stream.on("end", () => arrived.push(`end of ${stream.name}`));
  });
  const [bulk, page] = [await near.open("layers", "layers"), await near.open("demanded", "demanded")];
  bulk.end(Buffer.alloc(3 << 20));
  page.end(Buffer.alloc(4096));
  await Promise.all([once(bulk.resume(), "close"), once(page.resume(), "close")]);
  assert.ok(arrived.indexOf("end of demanded") < 8, `it came after ${arrived.indexOf("end of demanded")} others`);
  near.close();
});

test("a stream that is destroyed looks cut to the other side, which learns of it behind what was sent before", async () => {
  const served = Promise.withResolvers<TrunkStream>();
  const { near } = trunks((stream) => {
    stream.accept();
    served.resolve(stream.resume());
  });
  const stream = await near.open("files", "files");
  const there = await served.promise;
  const before = once(there, "data");
  stream.write("before");
  await before;
  const cut = once(there, "error");
  stream.destroy();
  assert.deepEqual(await cut, [new Error("the other side cut it")]);
  const again = await near.open("files", "files"); // the trunk goes on
  again.destroy();
  near.close();
});

test("after its own end a stream may be destroyed: what was sent arrives, and who sends more learns that nobody reads it", async () => {
  const served: TrunkStream[] = [];
  const { near, far } = trunks((stream) => {
    stream.accept();
    served.push(stream);
  });
  for (const answer of ["", "nobody reads this"]) {
    const stream = await near.open("files", "files");
    await new Promise<void>((resolve) => void stream.end("last words", resolve));
    stream.destroy();
    const there = served.pop();
    assert.ok(there !== undefined);
    if (answer !== "") there.write(answer);
    if (answer === "") assert.equal((await buffer(there)).toString(), "last words");
    else assert.deepEqual(await once(there, "error"), [new Error("the other side cut it")]);
  }
  near.close();
  assert.deepEqual([await near.over, await far.over], [undefined, undefined]);
});

test("what a stream is refused with, its opener gets; what comes for it afterwards is passed over", async () => {
  const reason = new DmigrateError("PEER_REFUSED", "Not expected; migrate again");
  const { near, far } = trunks((stream) => stream.refuse(reason));
  await assert.rejects(near.open("files", "files"), { code: "PEER_REFUSED", message: reason.message });
  await assert.rejects(near.open("files", "files"), { code: "PEER_REFUSED" });
  near.close();
  assert.deepEqual([await near.over, await far.over], [undefined, undefined]);
});

test("a stream that is destroyed before it was accepted is over on both sides", async () => {
  const streams: TrunkStream[] = [];
  const { near } = trunks((stream) => {
    streams.push(stream);
    stream.accept();
  });
  const abort = new AbortController();
  const opening = near.open("files", "files", abort.signal);
  abort.abort();
  await assert.rejects(opening, { message: "it was given up" });
  near.close();
  await near.over;
  for (const stream of streams) assert.ok(stream.destroyed);
});

test("a connection that breaks takes all streams with it, whoever waits", async () => {
  const { near, far, wires } = trunks(echo);
  const stream = await near.open("files", "files");
  const waiting = buffer(stream);
  const writing = new Promise((resolve) => void stream.write(Buffer.alloc(8 << 20), resolve));
  wires[1]?.destroy(new Error("pulled"));
  await assert.rejects(waiting, { message: "pulled" });
  assert.ok((await writing) instanceof Error);
  assert.equal((await near.over)?.message, "pulled");
  assert.ok((await far.over) instanceof Error);
  await assert.rejects(near.open("files", "files"), { message: "pulled" });
});

test("frames twice, behind the end, too many, of streams that are not open, and credits for nothing are refused", async () => {
  const data = (byteCount: number): TrunkFrame["content"] => ({ kind: "data", pieces: [Buffer.alloc(byteCount)], byteCount });
  const open: TrunkFrame = { stream: 1, place: 0, content: { kind: "open", name: "files", transferClass: "files" } };
  const flood = Array.from({ length: 65 }, (_, place): TrunkFrame => ({ stream: 1, place: place + 1, content: data(65_536) }));
  const cases: readonly (readonly TrunkFrame[])[] = [
    [open, { stream: 1, place: 1, content: data(1) }, { stream: 1, place: 1, content: data(1) }],
    [open, { stream: 1, place: 3, content: data(1) }, { stream: 1, place: 3, content: data(1) }],
    [open, { stream: 1, place: 1, content: { kind: "end" } }, { stream: 1, place: 2, content: data(1) }],
    [open, ...flood],
    [open, { stream: 1, place: 1, content: { kind: "accepted" } }, open],
    [open, { stream: 1, place: 0, content: { kind: "credit", takenBytes: 1 } }],
    [{ stream: 1, place: 0, content: data(1) }],
    [{ ...open, stream: 2 }],
    Array.from({ length: 65 }, (_, n): TrunkFrame => ({ ...open, stream: n + 1 })),
  ];
  for (const [index, frames] of cases.entries()) {
    const trunk = new Trunk((stream) => stream.accept());
    const [wire, there] = duplexPair();
    trunk.join(there, "shared");
    wire.resume();
    for (const frame of frames) for (const piece of encodeTrunkFrame(frame, crc32)) wire.write(piece);
    const reason = await trunk.over;
    assert.ok(reason instanceof DmigrateError && reason.code === "PROTOCOL", `case ${index}: ${String(reason)}`);
  }
});
