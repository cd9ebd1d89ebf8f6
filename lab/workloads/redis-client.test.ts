/**
 * The redis client against real servers, good ones and bad ones: what is done to it shows in its result.
 */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { after, before, test, type TestContext } from "node:test";
import { redisImage } from "../images/catalogue.ts";
import { buildImage } from "../images/image.ts";
import { Sandbox } from "../images/sandbox.ts";
import { CHECKOUT } from "../paths.ts";
import { ensureRoot } from "../setup.ts";
import { ClientProcess, type Control } from "./client-control.ts";
import { redisClientResult, type Mark, type RedisClientResult } from "./client-result.ts";
import { runRedisClient } from "./redis-client.ts";
import { RedisConnection } from "./redis-connection.ts";
import { digestFill, fillRedis } from "./redis-fill.ts";

// An address of the loopback network that no other process of this machine takes.
const endpoint = { host: `127.77.${(process.pid >> 8) & 255}.${process.pid & 255}`, port: 6379 };
const LIMIT_MS = 20_000;

let sandbox: Sandbox;
before(async () => {
  const root = await ensureRoot();
  sandbox = await Sandbox.unpack(await buildImage(redisImage(root), root));
});
after(async () => await sandbox[Symbol.asyncDispose]());

/** Starts a redis and waits until it answers; a connection to it works behind the client's back. */
async function startRedis(t: TestContext): Promise<{ server: ChildProcess; connection: RedisConnection }> {
  const argv = ["redis-server", "/etc/redis/redis.conf", "--bind", endpoint.host];
  const server = sandbox.spawn(argv, "shared", { stdio: ["ignore", "pipe", "ignore"] });
  t.after(() => sandbox.end(server));
  for await (const line of server.stdout ?? []) if (String(line).includes("Ready to accept connections")) break;
  const connection = await RedisConnection.connect(endpoint, LIMIT_MS);
  t.after(() => connection[Symbol.dispose]());
  return { server, connection };
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGKILL");
  await once(child, "exit");
}

/** A client under way. */
interface Running {
  readonly mark: (name: string) => void;
  readonly stop: () => Promise<RedisClientResult>;
}

/** Starts the client in this process and waits for its first reply. */
async function startClient(t: TestContext, { window = 1, limitMs = LIMIT_MS } = {}): Promise<Running> {
  const stop = new AbortController();
  t.after(() => stop.abort());
  const marks: Mark[] = [];
  const isReady = Promise.withResolvers<void>();
  const control: Control = { stop: stop.signal, marks, stretches: [], ready: isReady.resolve };
  // So many keys that none is written twice.
  const steps = { window, prefix: "p", keyCount: 1_000_000, valueBytes: 32, pauseMs: 0 };
  const result = runRedisClient({ ...endpoint, ...steps, connectLimitMs: limitMs, answerLimitMs: limitMs }, control);
  await Promise.race([isReady.promise, result]);
  return {
    mark: (name) => marks.push({ name, timeMs: performance.now() }),
    stop: async () => {
      stop.abort();
      return await result;
    },
  };
}

/** Lets the client go on for some steps. */
async function untilStep(connection: RedisConnection, step: number): Promise<void> {
  while (Number(await connection.command("GET", "p:counter")) < step);
}

for (const window of [1, 16]) {
  test(`a redis that is left alone has no fault, with ${window} steps under way`, async (t) => {
    const { connection } = await startRedis(t);
    const client = await startClient(t, { window });
    client.mark("busy");
    await untilStep(connection, 2000);
    const result = await client.stop();
    assert.deepEqual(result.faults, []);
    assert.deepEqual([result.connections, result.errors, result.lostWrites, result.wrongReads, result.doubleIncrements], [1, 0, 0, 0, 0]);
    assert.equal(result.replies, 3 * result.acknowledgedKeys);
    assert.equal(result.replies, 3 * Number(await connection.command("GET", "p:counter")));
    assert.equal(result.spans[0]?.name, "busy");
    assert.ok(result.spans[0].replies > 0 && result.spans[0].replies <= result.replies);
  });
}

test("the time during which redis does not answer is the downtime, and where it lies is told", async (t) => {
  const { connection } = await startRedis(t);
  const client = await startClient(t);
  await untilStep(connection, 100);
  const pausedMs = Date.now();
  await connection.command("CLIENT", "PAUSE", "300", "ALL");
  await connection.command("GET", "p:counter"); // is answered after the pause
  const result = await client.stop();
  assert.ok(result.downtimeMs >= 299, `${result.downtimeMs} ms`);
  assert.ok(result.gapAtMs > pausedMs - 50 && result.gapAtMs < pausedMs + 300, `${result.gapAtMs - pausedMs} ms after the pause`);
  assert.deepEqual(result.faults, []);
});

test("an acknowledged write that redis loses is noticed", async (t) => {
  const { connection } = await startRedis(t);
  const client = await startClient(t);
  await untilStep(connection, 100);
  await connection.command("DEL", "p:7", "p:8");
  const result = await client.stop();
  assert.equal(result.lostWrites, 2);
  assert.match(result.faults[0] ?? "", /step 7 was acknowledged/);
});

test("a command that redis executes twice is noticed", async (t) => {
  const { connection } = await startRedis(t);
  const client = await startClient(t);
  await untilStep(connection, 100);
  await connection.command("INCR", "p:counter");
  const result = await client.stop();
  assert.equal(result.doubleIncrements, 1);
  assert.equal(result.lostWrites, 0);
});

test("a redis that dies and comes back empty costs a connection and every write before", async (t) => {
  const { server, connection } = await startRedis(t);
  const client = await startClient(t);
  await untilStep(connection, 100);
  await sandbox.end(server);
  const second = await startRedis(t);
  await untilStep(second.connection, 100);
  const result = await client.stop();
  assert.ok(result.connections >= 2); // a dying process may still accept one
  assert.ok(result.errors > 0 && result.lostWrites >= 100, JSON.stringify(result));
});

test("a redis that stays dead has lost everything", async (t) => {
  const { server, connection } = await startRedis(t);
  const client = await startClient(t, { limitMs: 300 });
  await untilStep(connection, 100);
  await sandbox.end(server);
  const result = await client.stop();
  assert.equal(result.lostWrites, result.acknowledgedKeys + result.replies / 3); // keys and increments
});

test("a redis that does not answer any more after the stop is given up", async (t) => {
  const { connection } = await startRedis(t);
  const client = await startClient(t, { limitMs: 300 });
  await untilStep(connection, 100);
  await connection.command("CLIENT", "PAUSE", "60000", "ALL");
  const result = await client.stop();
  assert.ok(result.errors > 0 && result.lostWrites >= 100, JSON.stringify(result));
});

test("a client that finds no redis says so", async (t) => {
  await assert.rejects(startClient(t, { limitMs: 300 }), { code: "LAB", message: /Found no redis/ });
});

test("the program is driven over its input and answers with its result", async (t) => {
  await startRedis(t);
  const argv = ["lab/workloads/redis-client.ts", "--host", endpoint.host, "--keys", "50"];
  const child = spawn(process.execPath, argv, { cwd: CHECKOUT, stdio: ["pipe", "pipe", "inherit"] });
  t.after(() => kill(child));
  const client = new ClientProcess(child, redisClientResult);
  await client.ready();
  client.mark("first");
  client.mark("second span");
  client.span("all of 1970", 0, 1000);
  client.span("ever", 0, Number.MAX_SAFE_INTEGER);
  const result = await client.stop();
  assert.deepEqual(
    result.spans.map(({ name }) => name),
    ["first", "second span", "all of 1970", "ever"],
  );
  assert.deepEqual(
    result.spans.slice(2).map(({ replies }) => replies),
    [0, result.replies],
  );
  assert.deepEqual([result.connections, result.errors, result.lostWrites], [1, 0, 0]);
});

test("a program that ends without a result is an error", async (t) => {
  const child = spawn(process.execPath, ["-e", "0"], { stdio: ["pipe", "pipe", "inherit"] });
  t.after(() => kill(child));
  const client = new ClientProcess(child, redisClientResult);
  await assert.rejects(client.ready(), { code: "LAB" });
  await assert.rejects(client.stop(), { code: "LAB" });
});

test("what was filled in has one digest, which the smallest change changes", async (t) => {
  const { connection } = await startRedis(t);
  await assert.rejects(digestFill(endpoint), { code: "LAB", message: /fill it first/ });
  const keyCount = await fillRedis({ ...endpoint, byteCount: 10_000_000 });
  assert.equal(await connection.command("DBSIZE"), keyCount + 1);
  const digest = await digestFill(endpoint);
  await connection.command("SET", "other", "1");
  assert.equal(await digestFill(endpoint), digest);
  await connection.command("SETRANGE", `fill:${keyCount - 1}`, "4079", "x");
  assert.notEqual(await digestFill(endpoint), digest);
});
