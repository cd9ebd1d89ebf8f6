/**
 * Fills redis with incompressible values, and takes their digest on the server, which shows that none has changed.
 */
import { createCipheriv, createHash, type Cipheriv } from "node:crypto";
import { parseArgs } from "node:util";
import * as z from "zod";
import { DmigrateError } from "../../src/core/errors.ts";
import { RedisConnection, type Endpoint } from "./redis-connection.ts";
import { RespError, type Command, type Reply } from "./resp.ts";

/** How much to fill in. */
export interface FillOptions extends Endpoint {
  /** Bytes of all values together; rounded up to whole values. */
  readonly byteCount: number;
}

/** With redis' own header in front just what an allocation of 4 KiB holds. */
const VALUE_BYTES = 4080;
const VALUES_PER_BATCH = 512;
const KEYS_PER_DIGEST = 1000;
const KEY_COUNT_KEY = "fill:count";
const CONNECT_LIMIT_MS = 5000;

/**
 * Sets `fill:0`, `fill:1` and so on, 4080 bytes each.
 * @returns how many keys
 * @throws NETWORK, or LAB if redis refuses
 */
export async function fillRedis(options: FillOptions): Promise<number> {
  using connection = await RedisConnection.connect(options, CONNECT_LIMIT_MS);
  const keyCount = Math.ceil(options.byteCount / VALUE_BYTES);
  // The same bytes each time, as incompressible as random ones, at several GB/s.
  const noise = createCipheriv("aes-128-ctr", Buffer.alloc(16), Buffer.alloc(16));
  let previous: Promise<Reply[]> = Promise.resolve([]);
  for (let first = 0; first < keyCount; first += VALUES_PER_BATCH) {
    // One batch is made while redis takes the one before.
    const sent = connection.exchange(batch(first, Math.min(first + VALUES_PER_BATCH, keyCount), noise));
    refuseErrors(await previous);
    previous = sent;
  }
  refuseErrors(await previous);
  await connection.command("SET", KEY_COUNT_KEY, String(keyCount));
  return keyCount;
}

function batch(first: number, end: number, noise: Cipheriv): Command[] {
  const values = noise.update(Buffer.alloc((end - first) * VALUE_BYTES));
  return Array.from({ length: end - first }, (_, index) => [
    "SET",
    `fill:${first + index}`,
    values.subarray(index * VALUE_BYTES, (index + 1) * VALUE_BYTES),
  ]);
}

/**
 * Digest of everything that `fillRedis` set, computed by the server from its memory (DEBUG DIGEST-VALUE).
 * @throws NETWORK, or LAB if redis refuses DEBUG
 */
export async function digestFill(endpoint: Endpoint): Promise<string> {
  using connection = await RedisConnection.connect(endpoint, CONNECT_LIMIT_MS);
  const keyCount = await connection.command("GET", KEY_COUNT_KEY);
  if (keyCount === null) throw new DmigrateError("LAB", "This redis holds nothing that was filled in; fill it first");
  const hash = createHash("sha256");
  for (let first = 0; first < Number(keyCount); first += KEYS_PER_DIGEST) {
    const keys = Array.from({ length: Math.min(KEYS_PER_DIGEST, Number(keyCount) - first) }, (_, index) => `fill:${first + index}`);
    const digests = await connection.command("DEBUG", "DIGEST-VALUE", ...keys);
    for (const digest of Array.isArray(digests) ? digests : []) hash.update(Buffer.isBuffer(digest) ? digest : "none");
  }
  return hash.digest("hex");
}

function refuseErrors(replies: readonly Reply[]): void {
  const error = replies.find((reply) => reply instanceof RespError);
  if (error !== undefined) throw new DmigrateError("LAB", `Redis refused a value: ${error.message}; give it more memory`);
}

if (import.meta.main) await main();

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { host: { type: "string" }, port: { type: "string", default: "6379" }, megabytes: { type: "string", default: "512" } },
  });
  const [verb] = z.tuple([z.enum(["fill", "digest"])]).parse(positionals);
  const integer = z.coerce.number().int().positive();
  const options = z.object({ host: z.string(), port: integer, megabytes: integer }).parse(values);
  const result = verb === "fill" ? await fillRedis({ ...options, byteCount: options.megabytes * 1_000_000 }) : await digestFill(options);
  process.stdout.write(`${result}\n`);
}
