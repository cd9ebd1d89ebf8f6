/**
 * A PostgreSQL client that notices everything: over many connections at once it has numbered transactions committed, and tells how long
 * nobody was answered, what was lost and what was done twice. Before, it fills the server's shared memory.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Client } from "pg";
import * as z from "zod";
import { DmigrateError } from "../../src/core/errors.ts";
import { controlFromInput, type Control } from "./client-control.ts";
import { ANSWER_LIMIT_MS, CONNECT_LIMIT_MS, FIRST_CONNECT_LIMIT_MS, RECONNECT_PAUSE_MS } from "./client-limits.ts";
import { FaultList, measure, type PostgresClientResult } from "./client-result.ts";
import { judgeBooks } from "./commits.ts";
import { ReplyLog } from "./reply-log.ts";

/** What the client does. */
export interface PostgresClientOptions {
  readonly host: string;
  readonly port: number;
  /** So many backends the server has for it. */
  readonly connections: number;
  /** How much it fills in. */
  readonly megabytes: number;
  /** How long each connection rests after a transaction. */
  readonly pauseMs: number;
}

/** Of a row of the filling, without its header: less than what PostgreSQL would compress. */
const FILL_BYTES = 1920;

/** A transaction is an entry and a count; the statement stays prepared in its backend. */
const STEP = {
  name: "step",
  text: `WITH entry AS (INSERT INTO ledger VALUES ($1, $2)) UPDATE counters SET steps = steps + 1 WHERE backend = $1 RETURNING steps`,
};
const BOOKS = `
  SELECT count(*)::int AS entries, count(DISTINCT step)::int AS different, coalesce(max(step), 0) AS last,
         (SELECT steps FROM counters WHERE backend = $1) AS count
  FROM ledger WHERE backend = $1`;
const books = z.object({ entries: z.int(), different: z.int(), last: z.int(), count: z.int() });
const FILL_DIGEST = `SELECT md5(string_agg(md5(content), '' ORDER BY number)) AS digest FROM fill`;
const fillDigest = z.object({ digest: z.string() });

/** One connection, and what it knows. */
class Lane {
  readonly #client: Client;
  readonly #backend: number;
  #begun = 0;
  #acknowledged = 0;
  /** When it was answered. */
  readonly log = new ReplyLog();
  readonly #faults: FaultList;

  constructor(client: Client, backend: number, faults: FaultList) {
    this.#client = client;
    this.#backend = backend;
    this.#faults = faults;
  }

  /** One transaction after the other until the stop; a connection that breaks is a fault, and its end. */
  async work(stop: AbortSignal, pauseMs: number, answered: (atMs: number) => void): Promise<void> {
    try {
      while (!stop.aborted) {
        this.#begun += 1;
        await this.#client.query("BEGIN");
        const { rows } = await this.#client.query({ ...STEP, values: [this.#backend, this.#begun] });
        await this.#client.query("COMMIT");
        this.#acknowledged = this.#begun;
        const atMs = performance.now();
        this.log.add(atMs, 1);
        answered(atMs);
        const [{ steps }] = z.tuple([z.object({ steps: z.int() })]).parse(rows);
        if (steps !== this.#begun) this.#faults.add(`Backend ${this.#backend} counts ${steps} in transaction ${this.#begun}`);
        if (pauseMs > 0) await sleep(pauseMs);
      }
    } catch (error) {
      this.#faults.add(`Backend ${this.#backend}: ${String(error)}`);
    }
  }

  /** Looks for all of its transactions. */
  async readBack(): Promise<ReturnType<typeof judgeBooks>> {
    const commits = { begun: this.#begun, acknowledged: this.#acknowledged };
    try {
      const { rows } = await this.#client.query(BOOKS, [this.#backend]);
      const [found] = z.tuple([books]).parse(rows);
      const judged = judgeBooks(commits, found);
      if (judged.lost + judged.doubled > 0)
        this.#faults.add(`Backend ${this.#backend}: ${JSON.stringify(commits)} became ${JSON.stringify(found)}`);
      return judged;
    } catch (error) {
      this.#faults.add(`The books of backend ${this.#backend} can't be read: ${String(error)}`);
      return { lost: this.#acknowledged, doubled: 0 };
    }
  }
}

/**
 * Fills the server, then has transactions committed until it is told to stop, then looks for all of them, over the same connections.
 * @throws LAB if nobody listens at first; whatever happens later is part of the result
 */
export async function runPostgresClient(options: PostgresClientOptions, control: Control): Promise<PostgresClientResult> {
  const faults = new FaultList();
  const clients: Client[] = [];
  for (let at = 0; at < options.connections; at++) clients.push(await connect(options, faults));
  const [first] = clients;
  if (first === undefined) throw new DmigrateError("USAGE", "A client without connections does nothing; give it some");
  const digest = await prepare(first, options);

  const lanes = clients.map((client, backend) => new Lane(client, backend, faults));
  const log = new ReplyLog();
  const startMs = performance.now();
  const answered = (atMs: number): void => {
    log.add(atMs, 1);
    if (log.replyCount === 1) control.ready();
  };
  const patience = new AbortController();
  control.stop.addEventListener("abort", () => {
    const timer = setTimeout(() => clients.forEach((client) => void client.end()), ANSWER_LIMIT_MS);
    patience.signal.addEventListener("abort", () => clearTimeout(timer));
  });
  await Promise.all(lanes.map((lane) => lane.work(control.stop, options.pauseMs, answered)));
  const endMs = performance.now();

  let [lostCommits, doubledCommits] = [0, 0];
  for (const lane of lanes) {
    const { lost, doubled } = await lane.readBack();
    lostCommits += lost;
    doubledCommits += doubled;
  }
  const isFillSame = (await digestOf(first).catch(String)) === digest;
  if (!isFillSame) faults.add("What was filled in is not the same any more");
  patience.abort();
  await Promise.allSettled(clients.map((client) => client.end()));
  return {
    ...measure(
      log,
      startMs,
      endMs,
      control,
      clients.length,
      faults,
      lanes.map((lane) => lane.log),
    ),
    commits: log.replyCount,
    lostCommits,
    doubledCommits,
  };
}

/** Tries until somebody answers. A connection that breaks later is a fault of whoever uses it. */
async function connect({ host, port }: PostgresClientOptions, faults: FaultList): Promise<Client> {
  const deadline = performance.now() + FIRST_CONNECT_LIMIT_MS;
  for (;;) {
    const client = new Client({ host, port, user: "postgres", database: "postgres", connectionTimeoutMillis: CONNECT_LIMIT_MS });
    client.on("error", (error: unknown) => faults.add(`A connection broke: ${String(error)}`));
    try {
      await client.connect();
      return client;
    } catch (error) {
      if (performance.now() > deadline) throw new DmigrateError("LAB", `Found no PostgreSQL at ${host}:${port}; start one there`, error);
      await sleep(RECONNECT_PAUSE_MS); // it starts
    }
  }
}

/** Makes the books, and fills the server's buffers; returns the digest of that. */
async function prepare(client: Client, { connections, megabytes }: PostgresClientOptions): Promise<string> {
  const rows = Math.ceil((megabytes * 1_000_000) / FILL_BYTES);
  await client.query(`
    CREATE EXTENSION IF NOT EXISTS pg_prewarm;
    DROP TABLE IF EXISTS ledger, counters, fill;
    CREATE TABLE ledger (backend int, step int);
    CREATE TABLE counters (backend int PRIMARY KEY, steps int);
    INSERT INTO counters SELECT number, 0 FROM generate_series(0, ${connections - 1}) AS number;
    CREATE UNLOGGED TABLE fill AS
      SELECT number, repeat(md5(number::text), ${FILL_BYTES / 32}) AS content FROM generate_series(1, ${rows}) AS number;
    SELECT pg_prewarm('fill');`);
  return await digestOf(client);
}

async function digestOf(client: Client): Promise<string> {
  const { rows } = await client.query(FILL_DIGEST);
  const [{ digest }] = z.tuple([fillDigest]).parse(rows);
  return digest;
}

if (import.meta.main) await main();

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      host: { type: "string" },
      port: { type: "string", default: "5432" },
      connections: { type: "string", default: "20" },
      megabytes: { type: "string", default: "200" },
      "pause-ms": { type: "string", default: "0" },
    },
  });
  const count = z.coerce.number().int().positive();
  const options = z
    .object({ host: z.string(), port: count, connections: count, megabytes: count, pauseMs: z.coerce.number().int().nonnegative() })
    .parse({ ...values, pauseMs: values["pause-ms"] });
  process.stdout.write(`${JSON.stringify(await runPostgresClient(options, controlFromInput()))}\n`);
}
