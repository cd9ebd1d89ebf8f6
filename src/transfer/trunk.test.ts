/** Streams over the connections of a trunk, each as slow as it likes: in order, complete, no more on their way than there is room for. */
import assert from "node:assert/strict";
import { once } from "node:events";
import type { Duplex } from "node:stream";
import { buffer } from "node:stream/consumers";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import * as fc from "fast-check";
import { DmigrateError } from "../core/errors.ts";
import { LinkShares } from "../core/link-shares.ts";
import { TRANSFER_CLASSES, type TransferClass } from "../core/schedule.ts";
import {
  decodeTrunkFrames,
  TRUNK_FRAME_BYTES_MAX,
  TRUNK_HEADER_BYTES,
  writeTrunkFrame,
  type PageSpan,
  type PlainContent,
  type PlainFrame,
} from "../wire/trunk-frames.ts";
import { WINDOW_BYTES, type TrunkStream } from "./stream.ts";
import { FRAME_CODEC } from "./packer.ts";
import { Pile } from "./pile.ts";
import { Trunk, type Receive } from "./trunk.ts";
import { wire } from "./wires.fixture.ts";
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
    const [here, there] = wire();
    near.join(here, index === 0 && delays.length > 1 ? "reserved" : "shared");
    far.join(there, index === 0 && delays.length > 1 ? "reserved" : "shared", inOneBuffer(slowed(there, delay)));
    return here;
  });
  return { near, far, wires };
}

/** Receives as an agent's dialled connections do: in memory that is used again at once. */
function inOneBuffer(end: Duplex): Receive {
  return (use) => {
    const pile = new Pile(use);
    end.on("data", (chunk: Buffer) => {
      const memory = Uint8Array.from(chunk);
      pile.add(memory);
      memory.fill(0xee);
    });
  };
}

/** A connection on which what arrives takes some turns of the event loop. */
function slowed(end: Duplex, delay: () => number): Duplex {
  const push = end.push.bind(end);
  let before: Promise<unknown> = Promise.resolve();
  end.push = (chunk: Buffer | null): boolean => {
    const copy = chunk && Buffer.from(chunk); // its memory may be used again by then
    before = before.then(async () => {
      for (let turns = delay(); turns > 0; turns--) await turn();
      push(copy);
    });
    return true;
  };
  return end;
}

function bytesOf(frame: PlainFrame): Buffer {
  const bytes = Buffer.alloc(TRUNK_FRAME_BYTES_MAX);
  return bytes.subarray(0, writeTrunkFrame(bytes, frame, crc32));
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

test("who is waited for overtakes others that have something to send; without priorities it does not", async () => {
  const BULK_STREAMS = 12;
  for (const order of ["priority", "fifo"] as const) {
    const arrived: string[] = [];
    const near = new Trunk(() => assert.fail("nobody opens streams there"), order);
    const far = new Trunk((stream) => {
      stream.accept();
      stream.on("data", () => arrived.push(stream.name));
    }, order);
    for (const lane of ["reserved", "shared"] as const) {
      const [here, there] = wire();
      near.join(here, lane);
      far.join(there, lane);
    }
    const bulk = await Promise.all(Array.from({ length: BULK_STREAMS }, () => near.open("layers", "layers")));
    const page = await near.open("demanded", "demanded");
    for (const stream of bulk) stream.write(Buffer.alloc(65_536));
    page.write(Buffer.alloc(1));
    while (arrived.length <= BULK_STREAMS) await turn();
    const before = arrived.indexOf("demanded");
    assert.ok(order === "priority" ? before < 3 : before > BULK_STREAMS / 2, `${order}: it came after ${before} others`);
    for (const stream of [...bulk, page]) stream.destroy();
    near.close();
  }
});

test("a limit to the rate holds bulk back, and nothing that somebody waits for", async () => {
  const bytes = { bulk: 0, urgent: 0 };
  const { near } = trunks((stream) => {
    stream.accept();
    stream.on("data", (chunk: Buffer) => (bytes[stream.name === "demanded" ? "urgent" : "bulk"] += chunk.length));
  });
  near.limitRate(100_000);
  const [bulk, urgent] = [await near.open("memory", "memory"), await near.open("demanded", "demanded")];
  bulk.write(Buffer.alloc(2 << 20));
  await new Promise((resolve) => urgent.write(Buffer.alloc(2 << 20), resolve));
  while (bytes.urgent < 2 << 20) await turn();
  assert.ok(bytes.bulk < 1 << 20, `${bytes.bulk} bytes of bulk came as well, which take 20 s`);
  near.destroy();
});

/** Trunks that share a way: over each of their connections a chunk takes as long. Tells how many bytes each of them has brought. */
async function shared(
  connectionCounts: readonly number[],
  classes: readonly TransferClass[],
): Promise<{ readonly streams: TrunkStream[][]; readonly brought: Record<TransferClass, number>[] }> {
  const shares = new LinkShares();
  const brought = connectionCounts.map(
    () => Object.fromEntries(TRANSFER_CLASSES.map((each) => [each, 0])) as Record<TransferClass, number>,
  );
  const streams = connectionCounts.map(async (count, nth) => {
    const serve = (stream: TrunkStream): void => {
      stream.accept();
      stream.on("data", (chunk: Buffer) => (brought[nth]![stream.transferClass] += chunk.length));
    };
    const { near } = trunks(
      serve,
      Array.from({ length: count }, () => () => 3),
    );
    near.shareWith(shares, "b");
    return await Promise.all(classes.map((each) => near.open(each, each)));
  });
  return { streams: await Promise.all(streams), brought };
}

test("trunks to one host get the same of their way, however many connections they have", async () => {
  const { streams, brought } = await shared([1, 6], ["memory"]);
  for (const [stream] of streams) stream?.write(Buffer.alloc(32 << 20));
  const [few, many] = brought;
  assert.ok(few !== undefined && many !== undefined);
  while (few.memory < 8 << 20) {
    await turn();
    assert.ok(many.memory - few.memory < 3 << 20, `${many.memory} and ${few.memory}`);
  }
  for (const [stream] of streams) stream?.destroy();
});

test("what somebody waits for by one trunk holds up what nobody waits for by others", async () => {
  const { streams, brought } = await shared([3, 3], ["demanded", "memory"]);
  const [[demanded], [, memory]] = streams as [[TrunkStream], [TrunkStream, TrunkStream]];
  demanded.write(Buffer.alloc(16 << 20));
  memory.write(Buffer.alloc(16 << 20));
  while ((brought[0]?.demanded ?? 0) < 16 << 20) await turn();
  const before = brought[1]?.memory ?? NaN;
  assert.ok(before < 8 << 20, `${before} bytes of the other came as well`);
  while ((brought[1]?.memory ?? 0) < 16 << 20) await turn(); // once nobody waits any more
  for (const [stream] of streams) stream?.destroy();
});

test("over a slow connection what can be packed is, and arrives as it was", async () => {
  const sleepy = (end: Duplex): Duplex => {
    const write = end._write.bind(end);
    end._write = (chunk: Buffer, encoding, done) => void setTimeout(() => write(chunk, encoding, done), 5);
    return end;
  };
  let wireBytes = 0;
  const near = new Trunk(() => assert.fail("nobody opens streams there"));
  const far = new Trunk(echo);
  for (const lane of ["reserved", "shared"] as const) {
    const [here, there] = wire();
    near.join(sleepy(here), lane);
    far.join(there, lane);
    there.on("data", (chunk: Buffer) => (wireBytes += chunk.length));
  }
  near.mayPack();
  const stream = await near.open("layers", "layers");
  const back = buffer(stream);
  const text = Buffer.from("What can be packed is packed, if the link is slow. ".repeat(200_000));
  stream.end(text);
  assert.ok((await back).equals(text));
  assert.ok(wireBytes < text.length / 2, `${wireBytes} bytes crossed of ${text.length}`);
  near.close();
});

test("pages come as they are read when they leave, in any order, before what was written, and whoever waits for them first", async () => {
  const PAGE_BYTES = 4096;
  const arrived: string[] = [];
  const { near, far } = trunks(
    (stream) => {
      stream.accept();
      stream.receivePages((span, bytes = Buffer.alloc(span.pageCount * PAGE_BYTES)) => {
        for (let nth = 0; nth < span.pageCount; nth++) {
          const page = span.page + nth;
          assert.ok(bytes.subarray(nth * PAGE_BYTES, (nth + 1) * PAGE_BYTES).every((byte) => byte === page % 251));
          arrived.push(`${stream.name} ${span.process} ${page}`);
        }
      });
      stream.on("data", (chunk: Buffer) => arrived.push(`${stream.name} ${chunk.length} bytes`));
    },
    [() => 2, () => 1, () => 3],
  );
  const [bulk, ahead, demanded] = [
    await near.open("layers", "layers"),
    await near.open("near", "near"),
    await near.open("demanded", "demanded"),
  ];
  const read = ({ page, pageCount }: PageSpan, into: Uint8Array): number => {
    for (let at = 0; at < into.length; at += PAGE_BYTES) into.fill((page + at / PAGE_BYTES) % 251, at, at + PAGE_BYTES);
    return pageCount;
  };
  const left = (stream: TrunkStream, process: number, page: number, pageCount: number): Promise<void> =>
    new Promise((resolve) => stream.sendPages([{ process, page, pageCount }], read, () => resolve()));
  bulk.write(Buffer.alloc(3 << 20));
  await Promise.all([left(ahead, 1, 1000, 300), left(ahead, 2, 0, 1), left(demanded, 1, 7, 1)]);
  for (const stream of [bulk, ahead, demanded]) stream.end();
  for (const stream of [bulk, ahead, demanded]) stream.resume();
  near.close();
  await Promise.all([near.over, far.over]);
  const pages = arrived.filter((each) => !each.endsWith("bytes"));
  const expected = ["demanded 1 7", "near 2 0", ...Array.from({ length: 300 }, (_, nth) => `near 1 ${1000 + nth}`)];
  assert.deepEqual(pages.toSorted(), expected.toSorted());
  assert.ok(arrived.indexOf("demanded 1 7") < 100, `it came after ${arrived.indexOf("demanded 1 7")} others`);
  assert.ok((arrived.at(-1) ?? "").endsWith("bytes"));
});

test("what is written behind pages arrives when they are there; pages that could not be read do not cross", async () => {
  const arrived: string[] = [];
  const { near } = trunks(
    (stream) => {
      stream.accept();
      stream.receivePages(({ page, pageCount }) => arrived.push(`${page}+${pageCount}`));
      stream.on("data", (chunk: Buffer) => arrived.push(chunk.toString()));
    },
    [() => 0, () => 1, () => 9],
  );
  const stream = await near.open("memory", "memory");
  stream.on("close", () => {}).resume();
  const spans = [
    { process: 1, page: 0, pageCount: 40 },
    { process: 1, page: 100, pageCount: 3 },
    { process: 1, page: 200, pageCount: 1 },
  ];
  const left = Promise.withResolvers<void>();
  stream.sendPages(
    spans,
    ({ page, pageCount }) => (page === 200 ? 0 : Math.min(pageCount, 2)),
    () => left.resolve(),
  );
  stream.sendPages(
    [],
    () => assert.fail("there are none"),
    () => {},
  );
  await left.promise;
  stream.end("behind them");
  while (!arrived.includes("behind them")) await turn();
  assert.deepEqual([arrived.slice(0, -1).toSorted(), arrived.at(-1)], [["0+2", "100+2", "16+2", "32+2"], "behind them"]);
  near.close();
});

test("pages that can't be read, and those that nobody takes, cut their stream", async () => {
  const served: TrunkStream[] = [];
  const { near, far } = trunks((stream) => {
    stream.accept();
    served.push(stream);
  });
  const stream = await near.open("demanded", "demanded");
  const gone = new DmigrateError("KERNEL", "It ended; migrate again");
  const cut = once(served[0] ?? assert.fail(), "error");
  const told = once(stream, "error");
  await new Promise<void>((resolve) =>
    stream.sendPages(
      [{ process: 1, page: 1, pageCount: 1 }],
      () => {
        throw gone;
      },
      () => resolve(),
    ),
  );
  assert.deepEqual([await told, await cut], [[gone], [gone]], "both learn why");
  // Who does not see its end at once asks for more.
  stream.sendPages(
    [{ process: 1, page: 1, pageCount: 1 }],
    () => assert.fail("nobody takes them"),
    (error) => assert.ok(error instanceof Error),
  );
  const other = await near.open("near", "near");
  other.sendPages(
    [{ process: 1, page: 1, pageCount: 1 }],
    () => 1,
    () => {},
  );
  const reason = await far.over;
  assert.ok(reason instanceof DmigrateError && reason.code === "PROTOCOL", String(reason));
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

test("a reader that cuts its stream is not given what had overtaken the rest, and the trunk goes on", async () => {
  const data = (place: number): PlainFrame => ({
    stream: 1,
    place,
    content: { kind: "data", pieces: [Buffer.from(`${place}`)], byteCount: 1 },
  });
  const open = (stream: number): PlainFrame => ({ stream, place: 0, content: { kind: "open", name: "files", transferClass: "files" } });
  const read: string[] = [];
  const opened: number[] = [];
  const trunk = new Trunk((stream) => {
    stream.accept();
    opened.push(stream.id);
    stream.on("data", (chunk: Buffer) => {
      read.push(chunk.toString());
      stream.destroy();
    });
  });
  const [here, there] = wire();
  trunk.join(there, "shared");
  here.resume();
  const send = (...frames: readonly PlainFrame[]): void => void here.write(Buffer.concat(frames.map(bytesOf)));
  send(open(1));
  while (opened.length < 1) await turn();
  await turn(); // it is read from now on
  send(data(2), data(3), data(1), data(4), open(2));
  while (opened.length < 2 && !trunk.isOver) await turn();
  assert.deepEqual([read, trunk.isOver], [["1"], false]);
  trunk.destroy();
});

test("who opens streams that are refused, and does not read that, is cut", async () => {
  const trunk = new Trunk((stream) => stream.refuse(new DmigrateError("PEER_REFUSED", "Not expected; migrate again")));
  const [here, there] = wire();
  there._write = () => {}; // the kernel takes nothing any more
  trunk.join(there, "shared");
  for (let stream = 1; stream <= 200 && !trunk.isOver; stream++) {
    here.write(bytesOf({ stream, place: 0, content: { kind: "open", name: "files", transferClass: "files" } }));
    await turn();
  }
  const reason = await trunk.over;
  assert.ok(reason instanceof DmigrateError && reason.code === "PROTOCOL", String(reason));
});

/** What is done to one of the frames of a trunk by a peer that does not keep to the protocol. */
const harm = fc.record({
  at: fc.nat(),
  to: fc.nat(),
  kind: fc.constantFrom("twice", "left out", "later", "another stream", "another place", "another kind", "shorter", "cut"),
});

/** The frames of some streams, as they leave. */
async function framesOf(sent: ReadonlyMap<string, Buffer>): Promise<Buffer[]> {
  const frames: Buffer[] = [];
  const [here, there] = wire();
  const near = new Trunk(() => assert.fail("nobody opens streams there"));
  const far = new Trunk((stream) => stream.accept());
  near.join(here, "shared");
  far.join(there, "shared", (use) => {
    const pile = new Pile((bytes) => {
      const used = decodeTrunkFrames(bytes, FRAME_CODEC, () => {});
      for (let at = 0; at < used;) {
        const end = at + TRUNK_HEADER_BYTES + Buffer.from(bytes.buffer, bytes.byteOffset).readUIntBE(at + 1, 3);
        frames.push(Buffer.from(bytes.subarray(at, end)));
        at = end;
      }
      use(bytes.subarray(0, used));
      return used;
    });
    there.on("data", (chunk: Buffer) => pile.add(chunk));
  });
  for (const [name, bytes] of sent) (await near.open(name, "files")).end(bytes);
  while (frames.length < 2 * sent.size) await turn();
  for (let before = -1; before !== frames.length; await turn()) before = frames.length;
  near.destroy();
  return frames;
}

function harmed(frames: readonly Buffer[], { at, to, kind }: { at: number; to: number; kind: string }): Buffer[] {
  const all = frames.map((each) => Buffer.from(each));
  const index = at % all.length;
  const frame = all[index];
  if (frame === undefined || frame.length < TRUNK_HEADER_BYTES) return all; // it was harmed before
  const seal = (): void => void frame.writeUInt32BE(crc32(frame.subarray(16), crc32(frame.subarray(0, 12))), 12);
  switch (kind) {
    case "twice":
      all.splice(to % all.length, 0, frame);
      break;
    case "left out":
      all.splice(index, 1);
      break;
    case "later":
      all.splice(to % all.length, 0, ...all.splice(index, 1));
      break;
    case "another stream":
      frame.writeUInt32BE(to % 5, 4);
      break;
    case "another place":
      frame.writeUInt32BE(to, 8);
      break;
    case "another kind":
      frame[0] = to % 256;
      break;
    case "shorter":
      frame.writeUIntBE(to % (1 << 20), 1, 3);
      break;
    case "cut":
      all[index] = frame.subarray(0, to % frame.length);
      return all; // the checksum is of what was there
  }
  seal();
  return all;
}

test("whatever a peer does to frames, a stream brings what was sent by it, from its beginning on, or the trunk is cut", async () => {
  const bytes = fc.nat(200_000).map((length) => Buffer.alloc(length, "no two places of it are alike for a while ".repeat(7)));
  await fc.assert(
    fc.asyncProperty(
      fc.array(bytes, { minLength: 1, maxLength: 3 }),
      fc.array(harm, { minLength: 1, maxLength: 2 }),
      async (all, harms) => {
        const sent = new Map(all.map((each, nth) => [`${nth}`, each]));
        const frames = harms.reduce<Buffer[]>((before, each) => harmed(before, each), await framesOf(sent));
        const brought = new Map<string, Buffer[]>();
        const trunk = new Trunk((stream) => {
          stream.accept();
          const chunks: Buffer[] = [];
          brought.set(stream.name, chunks);
          stream.on("data", (chunk: Buffer) => chunks.push(chunk));
        });
        const [here, there] = wire();
        trunk.join(there, "shared");
        here.resume();
        for (const frame of frames) here.write(frame);
        here.end();
        await trunk.over;
        const isMoved = harms.some(({ kind }) => ["another stream", "another place"].includes(kind)); // what a liar says is its stream's
        for (const [name, chunks] of brought) {
          const got = Buffer.concat(chunks);
          if (!isMoved) assert.ok((sent.get(name) ?? assert.fail()).subarray(0, got.length).equals(got), name);
          assert.ok(got.length <= frames.reduce((sum, { length }) => sum + length, 0));
        }
      },
    ),
    { numRuns: 100 },
  );
});

test("frames twice, behind the end, too many, of streams that are not open, and credits for nothing are refused", async () => {
  const data = (byteCount: number): PlainContent => ({ kind: "data", pieces: [Buffer.alloc(byteCount)], byteCount });
  const open: PlainFrame = { stream: 1, place: 0, content: { kind: "open", name: "files", transferClass: "files" } };
  const flood = Array.from({ length: 65 }, (_, place): PlainFrame => ({ stream: 1, place: place + 1, content: data(65_536) }));
  const cases: readonly (readonly PlainFrame[])[] = [
    [open, { stream: 1, place: 1, content: data(1) }, { stream: 1, place: 1, content: data(1) }],
    [open, { stream: 1, place: 3, content: data(1) }, { stream: 1, place: 3, content: data(1) }],
    [open, { stream: 1, place: 1, content: { kind: "end" } }, { stream: 1, place: 2, content: data(1) }],
    [open, ...flood],
    [open, { stream: 1, place: 1, content: { kind: "accepted" } }, open],
    [open, { stream: 1, place: 0, content: { kind: "credit", takenBytes: 1 } }],
    [{ stream: 1, place: 0, content: data(1) }],
    [{ ...open, stream: 2 }],
    Array.from({ length: 65 }, (_, n): PlainFrame => ({ ...open, stream: n + 1 })),
  ];
  for (const [index, frames] of cases.entries()) {
    const trunk = new Trunk((stream) => stream.accept());
    const [here, there] = wire();
    trunk.join(there, "shared");
    here.resume();
    for (const frame of frames) here.write(bytesOf(frame));
    const reason = await trunk.over;
    assert.ok(reason instanceof DmigrateError && reason.code === "PROTOCOL", `case ${index}: ${String(reason)}`);
  }
});
