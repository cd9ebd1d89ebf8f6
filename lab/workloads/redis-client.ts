/**
 * A redis client that notices everything: over one connection it writes and reads back numbered values and increments
 * a counter as fast as it can, or may, and tells how long the server was silent, what it lost and what it did twice.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import * as z from "zod";
import { DmigrateError } from "../../src/core/errors.ts";
import { controlFromInput, type Control } from "./client-control.ts";
import { ANSWER_LIMIT_MS, CONNECT_LIMIT_MS, FIRST_CONNECT_LIMIT_MS, RECONNECT_PAUSE_MS } from "./client-limits.ts";
import { FaultList, measure, type RedisClientResult } from "./client-result.ts";
import { Ledger, type Fault, type LedgerOptions } from "./ledger.ts";
import { RedisConnection, type Endpoint } from "./redis-connection.ts";
import { ReplyLog } from "./reply-log.ts";
import type { Reply } from "./resp.ts";

/** What the client does. */
export interface RedisClientOptions extends Endpoint, LedgerOptions {
  /** Steps under way at a time; each is three commands sent as one. */
  readonly window: number;
  /** How long to rest after each step. */
  readonly pauseMs: number;
  /** How long the first connection may take. */
  readonly connectLimitMs: number;
  /** How long whatever is under way at the stop may take. */
  readonly answerLimitMs: number;
}

const READ_BACK_BATCH = 500;

class RedisClient {
  private readonly options: RedisClientOptions;
  private readonly control: Control;
  private readonly ledger: Ledger;
  private readonly log = new ReplyLog();
  private readonly faults = new FaultList();
  private readonly counts: Record<Fault["kind"], number> = { "error-reply": 0, "wrong-read": 0, "lost-write": 0, "double-increment": 0 };
  private connection: RedisConnection | undefined;
  private connections = 0;
  private patience: NodeJS.Timeout | undefined;
  private isPatient = true;

  constructor(options: RedisClientOptions, control: Control) {
    this.options = options;
    this.control = control;
    this.ledger = new Ledger(options);
  }

  async run(): Promise<RedisClientResult> {
    this.control.stop.addEventListener("abort", () => this.limitPatience(this.options.answerLimitMs));
    this.limitPatience(this.options.connectLimitMs);
    await this.connect();
    if (!this.control.stop.aborted) clearTimeout(this.patience);
    if (this.connection === undefined) {
      throw new DmigrateError("LAB", `Found no redis at ${this.options.host}:${this.options.port}; start one there`);
    }
    const startMs = performance.now();
    while (!(await this.load())) await this.connect();
    const endMs = performance.now();
    await this.readBack();
    clearTimeout(this.patience);
    this.connection?.[Symbol.dispose]();
    return {
      ...measure(this.log, startMs, endMs, this.control, this.connections, this.faults),
      acknowledgedKeys: this.ledger.acknowledgedKeys().length,
      lostWrites: this.counts["lost-write"],
      wrongReads: this.counts["wrong-read"],
      doubleIncrements: this.counts["double-increment"],
    };
  }

  /** From now on there is an end to waiting: for the first connection, or after the stop for all that is still to come. */
  private limitPatience(limitMs: number): void {
    clearTimeout(this.patience);
    this.patience = setTimeout(() => {
      this.isPatient = false;
      this.connection?.[Symbol.dispose]();
    }, limitMs);
  }

  /** Tries until somebody answers or patience ends. */
  private async connect(): Promise<void> {
    this.connection = undefined;
    while (this.connection === undefined && this.isPatient) {
      try {
        this.connection = await RedisConnection.connect(this.options, CONNECT_LIMIT_MS);
        this.connections += 1;
        if (!this.isPatient) this.connection[Symbol.dispose]();
      } catch {
        await sleep(RECONNECT_PAUSE_MS); // nobody answers yet
      }
    }
  }

  /** Works until the stop; false if the connection broke before. Without a connection there is no work. */
  private async load(): Promise<boolean> {
    const { connection } = this;
    if (connection === undefined) return true;
    try {
      await Promise.all(Array.from({ length: this.options.window }, () => this.lane(connection)));
      return true;
    } catch (error) {
      connection[Symbol.dispose]();
      this.ledger.interrupt();
      this.faults.add(DmigrateError.from(error).message);
      return false;
    }
  }

  /** One step after the other. */
  private async lane(connection: RedisConnection): Promise<void> {
    while (!this.control.stop.aborted) {
      const step = this.ledger.begin();
      const replies = await connection.exchange(this.ledger.commands(step));
      this.log.add(performance.now(), replies.length);
      if (this.log.replyCount === replies.length) this.control.ready();
      this.note(this.ledger.judge(step, replies));
      if (this.options.pauseMs > 0) await sleep(this.options.pauseMs);
    }
  }

  /** Reads every key that was ever acknowledged; what can't be read counts as lost. */
  private async readBack(): Promise<void> {
    const keys = this.ledger.acknowledgedKeys();
    for (let at = 0; at < keys.length; at += READ_BACK_BATCH) {
      const batch = keys.slice(at, at + READ_BACK_BATCH);
      const values = await this.read(batch.map((key) => this.ledger.key(key)));
      for (const [index, key] of batch.entries()) this.note(this.ledger.judgeReadBack(key, values[index]));
    }
    const [counter] = await this.read([this.ledger.counterKey]);
    this.note(this.ledger.judgeFinalCounter(counter));
  }

  /** The values of keys; none if they can't be had. */
  private async read(keys: readonly string[]): Promise<Reply[]> {
    try {
      const values = (await this.connection?.command("MGET", ...keys)) ?? [];
      return Array.isArray(values) ? values : [];
    } catch (error) {
      this.faults.add(DmigrateError.from(error).message);
      return [];
    }
  }

  private note(faults: readonly Fault[]): void {
    for (const { kind, count, message } of faults) {
      this.counts[kind] += count;
      this.faults.add(message);
    }
  }
}

/**
 * Runs the client until it is told to stop, then reads everything back.
 * @throws LAB if there is no redis at first; whatever happens later is part of the result
 */
export function runRedisClient(options: RedisClientOptions, control: Control): Promise<RedisClientResult> {
  return new RedisClient(options, control).run();
}

if (import.meta.main) await main();

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      host: { type: "string" },
      port: { type: "string", default: "6379" },
      window: { type: "string", default: "1" },
      keys: { type: "string", default: "20000" },
      "value-bytes": { type: "string", default: "64" },
      "pause-ms": { type: "string", default: "0" },
      prefix: { type: "string", default: `client-${process.pid}` },
    },
  });
  const integer = z.coerce.number().int().positive();
  const pauseMs = z.coerce.number().int().nonnegative();
  const options = z
    .object({ host: z.string(), port: integer, window: integer, keyCount: integer, valueBytes: integer, pauseMs, prefix: z.string() })
    .refine(({ window, keyCount }) => window <= keyCount, "--window must not exceed --keys")
    .parse({ ...values, keyCount: values.keys, valueBytes: values["value-bytes"], pauseMs: values["pause-ms"] });
  const result = await runRedisClient(
    { ...options, connectLimitMs: FIRST_CONNECT_LIMIT_MS, answerLimitMs: ANSWER_LIMIT_MS },
    controlFromInput(),
  );
  process.stdout.write(`${JSON.stringify(result)}\n`);
}
