/** Channels over real TLS on loopback: streams that end, streams that are cut, and those that are refused. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer, type AddressInfo, type Socket } from "node:net";
import { test, type TestContext } from "node:test";
import * as fc from "fast-check";
import { linkedHosts, type LinkedHost } from "../../test/support/hosts.ts";
import { DmigrateError } from "../core/errors.ts";
import { hostName, newMigrationId } from "../core/ids.ts";
import { END_FRAME } from "../wire/frames.ts";
import { encodeHello, type Offer } from "../wire/hello.ts";
import type { ChannelKind } from "./channels.ts";
import { ALPN, connected, dialMember } from "./dial.ts";
import { openConnection, type Opened } from "./handshake.ts";
import { receiveAll, sendAll, type Channel } from "./link.ts";

const id = newMigrationId(1n);

type Two = [LinkedHost, LinkedHost];

/** A source and a target whose trunk stands. */
async function linked(t: TestContext): Promise<Two> {
  const [a, b] = (await linkedHosts(t, "a", "b")) as Two;
  const expecting = a.link.expect(b.name, id);
  const trunk = await b.link.dial(a.name, id);
  t.after(() => {
    expecting[Symbol.dispose]();
    trunk[Symbol.dispose]();
  });
  return [a, b];
}

const kind = (name: string): ChannelKind => ({ name, transferClass: "files" });

/** Accepts a channel on `host` from `peer`, and tells what fails whoever receives by it. */
function acceptFailing(host: LinkedHost, peer: LinkedHost): Disposable & { readonly failure: Promise<unknown> } {
  const { promise: failure, resolve } = Promise.withResolvers<unknown>();
  const accepting = host.link.accept(peer.name, id, "files", async (channel) => void (await gather(channel).catch(resolve)));
  return { failure, [Symbol.dispose]: () => accepting[Symbol.dispose]() };
}

async function gather(channel: Channel): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of receiveAll(channel)) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks);
}

test("streams arrive as they were sent, one after the other and both ways", async (t) => {
  const [a, b] = await linked(t);
  const check = async (streams: Uint8Array[][]): Promise<void> => {
    const received: Buffer[] = [];
    using _accepting = b.link.accept(a.name, id, "files", async (channel) => {
      for (const _stream of streams) {
        const stream = await gather(channel);
        received.push(stream);
        await sendAll(channel, [stream]); // back it goes
      }
    });
    const channel = await a.link.open(b.name, id, kind("files"));
    for (const stream of streams) {
      await sendAll(channel, stream);
      assert.deepEqual(await gather(channel), Buffer.concat(stream));
    }
    await channel.close();
    assert.deepEqual(
      received,
      streams.map((stream) => Buffer.concat(stream)),
    );
    const bytes = Buffer.concat(received).length;
    assert.deepEqual(channel.counts, { sent: bytes, received: bytes });
  };
  const chunks = fc.oneof(
    fc.uint8Array({ maxLength: 100 }),
    fc.nat(200_000).map((length) => new Uint8Array(length).fill(length)),
  );
  await fc.assert(fc.asyncProperty(fc.array(fc.array(chunks, { maxLength: 10 }), { maxLength: 4 }), check), { numRuns: 40 });
});

test("a chunk may be larger than a frame, and its owner may reuse it", async (t) => {
  const [a, b] = await linked(t);
  const sizes = [1, 20 << 20, 100, 16_384, 16_385, 1 << 20, 5];
  const sent = createHash("sha256");
  const arrived = createHash("sha256");
  using _accepting = b.link.accept(a.name, id, "files", async (channel) => {
    for await (const chunk of receiveAll(channel)) arrived.update(chunk);
  });
  const channel = await a.link.open(b.name, id, kind("files"));
  const buffer = Buffer.alloc(20 << 20);
  await sendAll(
    channel,
    (function* () {
      for (const [n, size] of sizes.entries()) {
        const chunk = buffer.subarray(0, size).fill(n + 1);
        sent.update(chunk);
        yield chunk;
      }
      buffer.fill(0);
    })(),
  );
  await channel.close();
  assert.equal(arrived.digest("hex"), sent.digest("hex"));
});

test("what a handler sent last arrives before its end", async (t) => {
  const [a, b] = await linked(t);
  using _accepting = b.link.accept(a.name, id, "files", async (channel) => await channel.send(Buffer.from("last words")));
  const channel = await a.link.open(b.name, id, kind("files"));
  assert.equal(Buffer.from((await channel.receive()) as Uint8Array).toString(), "last words");
  await channel.close();
});

test("a reader that does not read holds the sender up, not the memory", async (t) => {
  const [a, b] = await linked(t);
  const reading = Promise.withResolvers<void>();
  using _accepting = b.link.accept(a.name, id, "files", async (channel) => {
    const stream = receiveAll(channel);
    await stream.next();
    await reading.promise;
    for await (const chunk of stream) assert.ok(chunk.length > 0);
  });
  const channel = await a.link.open(b.name, id, kind("files"));
  const total = 64 << 20;
  const chunk = Buffer.alloc(1 << 20);
  let yielded = 0;
  let growth = Promise.withResolvers<void>();
  const sending = sendAll(
    channel,
    (function* () {
      while (yielded < total) {
        yielded += chunk.length;
        growth.resolve();
        yield chunk;
      }
    })(),
  );
  // The sender has stalled when it asked for nothing more in a tenth of a second; the kernel's buffers take some megabytes.
  for (let seen = -1; seen !== yielded;) {
    seen = yielded;
    growth = Promise.withResolvers();
    await Promise.race([growth.promise, new Promise((resolve) => setTimeout(resolve, 100))]);
  }
  assert.ok(yielded < total / 2, `${yielded} bytes were sent to nobody`);
  reading.resolve();
  await sending;
  await channel.close();
  assert.equal(channel.counts.sent, total);
});

test("ends of streams that nobody asks for hold their sender up, not the memory", async (t) => {
  const [a, b] = await linked(t);
  using _idle = b.link.accept(a.name, id, "ends", async (channel) => {
    await channel.receive();
    await new Promise((resolve) => t.after(resolve));
  });
  using _echoing = b.link.accept(a.name, id, "files", async (channel) => await sendAll(channel, [await gather(channel)]));
  const raw = (await a.link.open(b.name, id, kind("ends"))).raw();
  let isTaken = false;
  raw.write(Buffer.alloc(6 << 20, END_FRAME), (error) => (isTaken = !error));
  for (let round = 0; round < 4; round++) {
    const other = await a.link.open(b.name, id, kind("files"));
    await sendAll(other, [Buffer.alloc(4 << 20)]);
    assert.equal((await gather(other)).length, 4 << 20);
    await other.close();
  }
  assert.ok(!isTaken);
  raw.destroy();
});

test("a stream that is cut is no stream that ended", async (t) => {
  const [a, b] = await linked(t);
  using accepting = acceptFailing(b, a);
  const channel = await a.link.open(b.name, id, kind("files"));
  await channel.send(Buffer.from("half of it"));
  channel.destroy();
  const error = await accepting.failure;
  assert.ok(error instanceof DmigrateError && error.code === "TRANSFER_FAILED", String(error));
  assert.match(error.message, /^Channel files to host a ended early/);
  await assert.rejects(channel.send(Buffer.from("more")), { code: "TRANSFER_FAILED" });
  await assert.rejects(channel.close(), { code: "TRANSFER_FAILED" });
});

test("a receiver's agent that goes fails the sender", async (t) => {
  const [a, b] = await linked(t);
  using _accepting = b.link.accept(a.name, id, "files", async (channel) => {
    await receiveAll(channel).next();
    channel.destroy();
  });
  const channel = await a.link.open(b.name, id, kind("files"));
  const forever = (function* () {
    for (;;) yield Buffer.alloc(1 << 16);
  })();
  await assert.rejects(sendAll(channel, forever), { code: "TRANSFER_FAILED" });
});

test("what a handler throws, its opener throws: while it sends, while it waits, and at the end", async (t) => {
  const [a, b] = await linked(t);
  const full = new DmigrateError("NO_SPACE", "No space is left; free some");
  using _accepting = b.link.accept(a.name, id, "files", async (channel) => {
    for await (const chunk of receiveAll(channel)) if (Buffer.from(chunk).includes("now")) throw full;
  });
  const expected = { name: "DmigrateError", code: "NO_SPACE", message: `On b: ${full.message}` };
  const sending = await a.link.open(b.name, id, kind("files"));
  const forever = (function* () {
    for (;;) yield Buffer.from("now".padEnd(1 << 16));
  })();
  await assert.rejects(sendAll(sending, forever), expected);
  const waiting = await a.link.open(b.name, id, kind("files"));
  await waiting.send(Buffer.from("now"));
  await assert.rejects(gather(waiting), expected);
  const ending = await a.link.open(b.name, id, kind("files"));
  await sendAll(ending, [Buffer.from("now")]);
  await assert.rejects(ending.close(), expected);
});

test("what a sender's source throws, the receiver throws", async (t) => {
  const [a, b] = await linked(t);
  using accepting = acceptFailing(b, a);
  const channel = await a.link.open(b.name, id, kind("files"));
  const broken = (function* () {
    yield Buffer.from("some");
    throw new DmigrateError("ROOTFS", "Cannot read /var/x; look at it");
  })();
  await assert.rejects(sendAll(channel, broken), { code: "ROOTFS" });
  const error = await accepting.failure;
  assert.ok(
    error instanceof DmigrateError && error.code === "ROOTFS" && error.message === "On a: Cannot read /var/x; look at it",
    String(error),
  );
});

test("only the target may dial, and only what it accepts is opened", async (t) => {
  const [a, b, c] = (await linkedHosts(t, "a", "b", "c")) as [LinkedHost, LinkedHost, LinkedHost];
  const refused = { code: "PEER_REFUSED", message: /^(On b: )?No (trunk|channel \S+) of migration \S+ is expected from [abc]/ };
  await assert.rejects(b.link.dial(a.name, id), refused);
  await assert.rejects(a.link.open(b.name, id, kind("files")), { code: "INTERNAL" });
  using _expecting = a.link.expect(b.name, id);
  await assert.rejects(c.link.dial(a.name, id), refused);
  await assert.rejects(b.link.dial(a.name, newMigrationId(2n)), refused);
  using _trunk = await b.link.dial(a.name, id);
  let served = 0;
  const accepting = b.link.accept(a.name, id, "files", () => {
    served += 1;
    return Promise.resolve();
  });
  using _others = b.link.accept(c.name, id, "of/c", () => Promise.resolve());
  await assert.rejects(a.link.open(b.name, id, kind("other")), refused);
  await assert.rejects(a.link.open(b.name, id, kind("of/c")), refused);
  assert.throws(() => b.link.accept(a.name, id, "files", () => Promise.resolve()), { code: "INTERNAL" });
  await (await a.link.open(b.name, id, kind("files"))).close();
  assert.equal(served, 1);
  accepting[Symbol.dispose]();
  await assert.rejects(a.link.open(b.name, id, kind("files")), refused);
  a.cluster.remove(b.name);
  await assert.rejects(b.link.dial(a.name, id), { code: "PEER_REFUSED", message: /from a host that is not in the cluster/ });
});

test("a source is told of each trunk that its target dials, also of one that came before it asked", async (t) => {
  const [a, b] = (await linkedHosts(t, "a", "b")) as Two;
  using _expecting = a.link.expect(b.name, id);
  const over = new AbortController();
  const first = a.link.dialled(id, 0, over.signal);
  using _one = await b.link.dial(a.name, id);
  assert.equal(await first, 1);
  using _two = await b.link.dial(a.name, id);
  using _three = await b.link.dial(a.name, id);
  assert.equal(await a.link.dialled(id, 1, over.signal), 3);
  const ended = assert.rejects(a.link.dialled(id, 3, over.signal), { message: "it is over" });
  over.abort(new Error("it is over"));
  await ended;
});

test("a connection belongs to the trunk it was offered for, once, and to no other migration or host", async (t) => {
  const [a, b, c] = (await linkedHosts(t, "a", "b", "c")) as [LinkedHost, LinkedHost, LinkedHost];
  const other = newMigrationId(2n);
  for (const [host, migration] of [
    [b, id],
    [b, other],
    [c, newMigrationId(3n)],
  ] as const)
    a.link.expect(host.name, migration, undefined, () => ({ connections: 2, compression: "none" }));
  const offer = async (from: LinkedHost, changed: Partial<Offer>): Promise<Opened> => {
    const offered: Offer = { migration: id, trunk: "1".repeat(32), connection: 0, connections: 3, packing: "none", ...changed };
    const opened = await openConnection(from.cluster.membership, from.cluster.member(a.name), offered);
    t.after(() => opened.socket.destroy());
    return opened;
  };
  await offer(b, {});
  const refused: readonly (readonly [LinkedHost, Partial<Offer>, string])[] = [
    [b, {}, "PROTOCOL"], // twice
    [b, { connection: 1, trunk: "2".repeat(32) }, "PROTOCOL"], // of none that is here
    [b, { connection: 1, migration: other }, "PROTOCOL"],
    [b, { connection: 2 }, "PROTOCOL"], // more than its source wants
    [b, { connection: 1, migration: newMigrationId(3n) }, "PEER_REFUSED"], // another host's
    [c, { connection: 1 }, "PEER_REFUSED"],
    [c, { connection: 1, migration: newMigrationId(3n) }, "PROTOCOL"],
  ];
  for (const [from, changed, code] of refused)
    await assert.rejects(offer(from, changed), { code }, `${from.name} ${JSON.stringify(changed)}`);
  await offer(b, { connection: 1 });
});

test("a trunk has no more connections than its source wants", async (t) => {
  const [a, b] = (await linkedHosts(t, "a", "b")) as Two;
  const served = t.mock.method(a.link, "serve");
  for (const connections of [2, 3]) {
    served.mock.resetCalls();
    using _expecting = a.link.expect(b.name, id, undefined, () => ({ connections, compression: "none" }));
    using _trunk = await b.link.dial(a.name, id);
    using _accepting = b.link.accept(a.name, id, "files", async (channel) => await sendAll(channel, [await gather(channel)]));
    const channel = await a.link.open(b.name, id, kind("files"));
    await sendAll(channel, [Buffer.from("over them")]);
    assert.equal((await gather(channel)).toString(), "over them");
    await channel.close();
    assert.equal(served.mock.callCount(), connections);
  }
});

test("a limit that a source gives a migration holds that back, also by the trunk that is dialled next, and no other", async (t) => {
  const [a, b] = (await linkedHosts(t, "a", "b")) as Two;
  const other = newMigrationId(2n);
  using _expecting = a.link.expect(b.name, id, 100_000);
  using _expectingOther = a.link.expect(b.name, other);
  const received = new Map<string, number>();
  for (const migration of [id, other]) {
    b.link.accept(a.name, migration, "files", async (channel) => {
      received.set(migration, 0);
      for await (const chunk of receiveAll(channel)) received.set(migration, (received.get(migration) ?? 0) + chunk.length);
    });
  }
  using _other = await b.link.dial(a.name, other);
  for (let count = 0; count < 2; count++) {
    using _trunk = await b.link.dial(a.name, id);
    const limited = await a.link.open(b.name, id, kind("files"));
    const sending = sendAll(limited, [Buffer.alloc(8 << 20)]); // 80 seconds of it
    const unlimited = await a.link.open(b.name, other, kind("files"));
    await sendAll(unlimited, [Buffer.alloc(8 << 20)]);
    await unlimited.close();
    assert.equal(received.get(other), 8 << 20);
    assert.ok((received.get(id) ?? NaN) < 4 << 20, `${received.get(id)} bytes`);
    limited.destroy();
    await assert.rejects(sending, { code: "TRANSFER_FAILED" });
  }
});

test("a trunk ends with its migration, once what is on it has ended", async (t) => {
  const [a, b] = (await linkedHosts(t, "a", "b")) as Two;
  using _expecting = a.link.expect(b.name, id);
  const trunk = await b.link.dial(a.name, id);
  using _accepting = b.link.accept(a.name, id, "files", async (channel) => await sendAll(channel, [await gather(channel)]));
  const channel = await a.link.open(b.name, id, kind("files"));
  trunk[Symbol.dispose]();
  await sendAll(channel, [Buffer.from("still here")]);
  assert.equal((await gather(channel)).toString(), "still here");
  await channel.close();
  await assert.rejects(a.link.open(b.name, id, kind("files")), { code: "PEER_UNREACHABLE" });
});

test("a source that expects no trunk any more opens nothing, and takes none", async (t) => {
  const [a, b] = (await linkedHosts(t, "a", "b")) as Two;
  const expecting = a.link.expect(b.name, id);
  using _trunk = await b.link.dial(a.name, id);
  expecting[Symbol.dispose]();
  await assert.rejects(a.link.open(b.name, id, kind("files")), { code: "INTERNAL" });
  await assert.rejects(b.link.dial(a.name, id), { code: "PEER_REFUSED" });
});

test("a channel that is not admitted is refused with the reason", async (t) => {
  const [a, b] = await linked(t);
  const reasons = [new DmigrateError("RESTORE_FAILED", "It ended; migrate again")];
  using _accepting = b.link.accept(
    a.name,
    id,
    "files",
    () => Promise.resolve(),
    () => {
      for (const reason of reasons) throw reason;
    },
  );
  await assert.rejects(a.link.open(b.name, id, kind("files")), { code: "RESTORE_FAILED", message: "It ended; migrate again" });
  reasons.pop();
  await (await a.link.open(b.name, id, kind("files"))).close();
});

test("a hello of another version, or none at all, is answered with the cause", async (t) => {
  const [a, b] = await linked(t);
  const newer = encodeHello({ migration: id, trunk: "0".repeat(32), connection: 0, connections: 1, packing: "none" });
  newer[5] = 7;
  for (const [greeting, cause] of [
    [newer, /Channel protocol 7 was offered, protocol 6 is spoken/],
    [Buffer.from("GET / HTTP/1.1\r\n\r\n"), /only agents may use this port/],
  ] as const) {
    const socket = dialMember(a.cluster.membership, a.cluster.member(b.name), ALPN.channels);
    await connected(socket);
    socket.write(greeting);
    const [answer] = (await once(socket, "data")) as [Buffer];
    assert.match(answer.toString(), cause);
    await once(socket, "close");
  }
});

test("hosts that cannot be reached are named", async (t) => {
  const [a, b] = (await linkedHosts(t, "a", "b")) as Two;
  await assert.rejects(a.link.dial(hostName("nobody"), id), { code: "HOST_UNKNOWN", message: /No host nobody/ });
  a.cluster.add({ ...a.cluster.member(b.name), address: "127.0.0.1:1" });
  await assert.rejects(a.link.dial(b.name, id), {
    code: "PEER_UNREACHABLE",
    message: /Host b does not answer at 127.0.0.1:1: .*ECONNREFUSED/,
  });
  const other = createServer((socket) => socket.end("220 some other service\r\n")).listen(0, "127.0.0.1");
  t.after(() => other.close());
  await once(other, "listening");
  a.cluster.add({ ...a.cluster.member(b.name), address: `127.0.0.1:${(other.address() as AddressInfo).port}` });
  await assert.rejects(a.link.dial(b.name, id), { code: "PEER_UNREACHABLE" });
});

test("an agent that says nothing is told from a host that does not answer", async (t) => {
  const [a, b] = (await linkedHosts(t, "a", "b")) as Two;
  const hung = createServer().listen(0, "127.0.0.1");
  t.after(() => hung.close());
  await once(hung, "listening");
  a.cluster.add({ ...a.cluster.member(b.name), address: `127.0.0.1:${(hung.address() as AddressInfo).port}` });
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const accepted = once(hung, "connection");
  const opening = a.link.dial(b.name, id);
  const refused = assert.rejects(opening, {
    code: "PEER_UNREACHABLE",
    message: /accepts connections, but its agent says nothing within 10 s/,
  });
  const [socket] = (await accepted) as [Socket];
  await once(socket, "data"); // the handshake has begun, and nobody answers
  t.mock.timers.tick(10_000);
  await refused;
});

test("a host of the right name with another certificate is not the member", async (t) => {
  const [a, b] = (await linkedHosts(t, "a", "b")) as Two;
  a.cluster.add({ ...a.cluster.member(b.name), fingerprint: "0".repeat(64) });
  await assert.rejects(a.link.dial(b.name, id), {
    code: "PEER_REFUSED",
    message: /not the certificate that host b was added with/,
  });
});

test("a signal cuts a channel, before it is open and after", async (t) => {
  const [a, b] = await linked(t);
  using accepting = acceptFailing(b, a);
  const abort = new AbortController();
  const channel = await a.link.open(b.name, id, kind("files"), abort.signal);
  const waiting = gather(channel);
  abort.abort(new DmigrateError("CANCELLED", "Cancelled by its user"));
  await assert.rejects(waiting, { code: "CANCELLED", message: "Cancelled by its user" });
  assert.equal(((await accepting.failure) as DmigrateError).code, "TRANSFER_FAILED");
  await assert.rejects(a.link.open(b.name, id, kind("files"), abort.signal), { code: "CANCELLED" });
  const soon = new AbortController();
  const opening = a.link.open(b.name, id, kind("files"), soon.signal);
  soon.abort();
  await assert.rejects(opening, { code: "CANCELLED" });
});

test("a raw channel is a plain connection, and nobody else reads from it", async (t) => {
  const [a, b] = await linked(t);
  using _accepting = b.link.accept(a.name, id, "pages", (channel) => {
    const socket = channel.raw();
    socket.write("first"); // may arrive together with the answer to the hello
    socket.pipe(socket);
    return Promise.resolve();
  });
  const channel = await a.link.open(b.name, id, kind("pages"));
  const socket = channel.raw();
  socket.end("second");
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  assert.equal(Buffer.concat(chunks).toString(), "firstsecond");
  await assert.rejects(channel.send(Buffer.from("x")), { code: "INTERNAL" });
});
