/**
 * The PostgreSQL client against a real server: what is lost there, or is there twice, shows in its result.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Client } from "pg";
import { postgresImage } from "../images/catalogue.ts";
import { buildImage } from "../images/image.ts";
import { Sandbox } from "../images/sandbox.ts";
import { ensurePostgresRoot } from "../setup.ts";
import type { PostgresClientResult } from "./client-result.ts";
import { runPostgresClient } from "./postgres-client.ts";

// An address of the loopback network that no other process of this machine takes.
const endpoint = { host: `127.79.${(process.pid >> 8) & 255}.${process.pid & 255}`, port: 5432 };
const CONNECTIONS = 3;

let sandbox: Sandbox;
before(async () => {
  const root = await ensurePostgresRoot();
  const image = postgresImage(root);
  sandbox = await Sandbox.unpack(await buildImage(image, root));
  const env = Object.fromEntries((image.config.Env ?? []).map((entry) => entry.split("=") as [string, string])); // as Docker has it
  sandbox.spawn(["start", "-c", `listen_addresses=${endpoint.host}`], "shared", { stdio: "ignore", env });
});
after(async () => await sandbox[Symbol.asyncDispose]());

/** Runs the client; once it is being answered, something happens to the server's tables. */
async function runWhile(statement?: string): Promise<PostgresClientResult> {
  const [stop, isReady] = [new AbortController(), Promise.withResolvers<void>()];
  const control = { stop: stop.signal, marks: [], stretches: [], ready: isReady.resolve };
  const result = runPostgresClient({ ...endpoint, connections: CONNECTIONS, megabytes: 1, pauseMs: 0 }, control);
  await Promise.race([isReady.promise, result]);
  if (statement !== undefined) {
    const other = new Client({ ...endpoint, user: "postgres" });
    await other.connect();
    await other.query(statement);
    await other.end();
  }
  stop.abort();
  return await result;
}

test("a server that is left alone has each transaction once", async () => {
  const { commits, lostCommits, doubledCommits, connections, errors } = await runWhile();
  assert.deepEqual({ lostCommits, doubledCommits, connections, errors }, { lostCommits: 0, doubledCommits: 0, connections: 3, errors: 0 });
  assert.ok(commits > 0);
});

test("what is not there any more, or twice, is told", async () => {
  const lost = await runWhile("DELETE FROM ledger WHERE ctid = (SELECT ctid FROM ledger LIMIT 1)");
  assert.deepEqual([lost.lostCommits, lost.doubledCommits, lost.errors], [1, 1, 1]); // it was counted, and so is more than is entered
  const doubled = await runWhile("INSERT INTO ledger SELECT * FROM ledger LIMIT 1");
  assert.deepEqual([doubled.lostCommits, doubled.doubledCommits, doubled.errors], [0, 1, 1]);
  const changed = await runWhile("UPDATE fill SET content = '' WHERE number = 1");
  assert.deepEqual([changed.lostCommits, changed.doubledCommits, changed.errors], [0, 0, 1]);
});

test("a connection that breaks is told, and what it had not been answered may be there or not", async () => {
  const { connections, errors, doubledCommits, faults } = await runWhile(
    // It returns when that backend has ended: the client must notice before it is told to stop.
    `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
      WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() LIMIT 1`,
  );
  assert.equal(connections, CONNECTIONS);
  assert.ok(errors > 0 && faults.length > 0);
  assert.equal(doubledCommits, 0);
});
