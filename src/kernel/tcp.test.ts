/** A connection whose unsent bytes are limited: the kernel takes less of it at a time, and loses nothing. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { limitUnsent } from "./tcp.ts";

const CHUNK = Buffer.alloc(1 << 16);
const CHUNK_COUNT = 512;

/** How many chunks the kernel takes of a connection from which nobody reads; then all of it is read. */
async function takenUnread(prepare: (socket: Socket) => void): Promise<number> {
  const server = createServer({ pauseOnConnect: true }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const accepted = once(server, "connection") as Promise<[Socket]>;
  const socket = connect((server.address() as AddressInfo).port, "127.0.0.1");
  await once(socket, "connect");
  prepare(socket);
  const [other] = await accepted;
  let takenCount = 0;
  for (let n = 0; n < CHUNK_COUNT; n++) socket.write(CHUNK, () => (takenCount += 1));
  socket.end();
  for (let seen = -1; seen !== takenCount;) {
    seen = takenCount;
    await sleep(200);
  }
  const stalledAt = takenCount;
  let byteCount = 0;
  for await (const chunk of other) byteCount += (chunk as Buffer).length;
  assert.equal(byteCount, CHUNK_COUNT * CHUNK.length);
  socket.destroy();
  server.close();
  return stalledAt;
}

test("the kernel takes less of a connection whose unsent bytes are limited", async () => {
  const unlimited = await takenUnread(() => {});
  const limited = await takenUnread((socket) => limitUnsent(socket, CHUNK.length));
  assert.ok(limited < unlimited - 8, `${limited} instead of ${unlimited} chunks`);
});

test("of a connection that is closed nothing is limited", async () => {
  const socket = connect(1, "127.0.0.1");
  await once(socket, "error");
  limitUnsent(socket, 1);
});
