/**
 * Who works while the demo's redis moves: its client and, if wanted, neighbours that want all processors; and how they got on in each
 * phase.
 */
import type { SpawnOptions } from "node:child_process";
import type { PhaseSpan } from "../src/core/migration.ts";
import type { Host } from "./host.ts";
import { CHECKOUT_IN_HOST } from "./paths.ts";
import { ClientProcess } from "./workloads/client-control.ts";
import { clientResult, redisClientResult, type ClientResult, type RedisClientResult } from "./workloads/client-result.ts";

/** How long they run undisturbed before, between and after the moves. */
const CALM_MS = 2000;
/** As if it were a phase. */
const BEFORE = "before";
const PIPED: SpawnOptions = { stdio: ["pipe", "pipe", "inherit"] };

/** What somebody did in a second, on average: undisturbed just before a move, and in each of its phases. */
export type Rates = Readonly<Record<string, number>>;

/** How it went, for all moves. */
export interface LoadResult {
  readonly client: RedisClientResult;
  /** Replies to the client at a move. */
  readonly replies: (move: string) => Rates;
  /** Units of work of all neighbours. */
  readonly units: (move: string) => Rates;
}

/** argv of one of the workloads' programs in a host. */
export function workload(name: string, ...args: readonly string[]): string[] {
  return [`${CHECKOUT_IN_HOST}/bin/node`, `${CHECKOUT_IN_HOST}/lab/workloads/${name}.ts`, ...args];
}

export class DemoLoad {
  readonly #client: ClientProcess<RedisClientResult>;
  readonly #neighbours: readonly ClientProcess<ClientResult>[];

  private constructor(client: ClientProcess<RedisClientResult>, neighbours: readonly ClientProcess<ClientResult>[]) {
    this.#client = client;
    this.#neighbours = neighbours;
  }

  /** Starts the client of a redis, and as many neighbours on another host; returns when they work. */
  static async start(clientHost: Host, redis: string, neighbourHost: Host, neighbourCount: number): Promise<DemoLoad> {
    const client = new ClientProcess(clientHost.spawn(workload("redis-client", "--host", redis), PIPED), redisClientResult);
    const neighbours = Array.from(
      { length: neighbourCount },
      () => new ClientProcess(neighbourHost.spawn(workload("neighbour"), PIPED), clientResult),
    );
    await Promise.all([client, ...neighbours].map((one) => one.ready()));
    return new DemoLoad(client, neighbours);
  }

  /** Leaves them alone for a while. */
  calm(): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, CALM_MS));
  }

  /** A move begins, after a calm while. */
  begins(move: string): void {
    this.#client.mark(move);
    const nowMs = Date.now();
    this.#ask(spanName(move, BEFORE), nowMs - CALM_MS, nowMs);
  }

  /** It was over: these were its phases, by their distance from the beginning. */
  ended(move: string, beganAtMs: number, phases: readonly Pick<PhaseSpan, "startMs" | "endMs" | "name">[]): void {
    for (const { name, startMs, endMs } of phases) this.#ask(spanName(move, name), beganAtMs + startMs, beganAtMs + endMs);
  }

  #ask(name: string, fromMs: number, toMs: number): void {
    for (const one of [this.#client, ...this.#neighbours]) one.span(name, fromMs, toMs);
  }

  async stop(): Promise<LoadResult> {
    const [client, neighbours] = await Promise.all([this.#client.stop(), Promise.all(this.#neighbours.map((one) => one.stop()))]);
    return { client, replies: (move) => ratesOf([client], move), units: (move) => ratesOf(neighbours, move) };
  }
}

/** How somebody got on, in words. */
export function paceOf({ [BEFORE]: before = NaN, copy = NaN, "post-copy": postCopy }: Rates): string {
  const percent = (rate: number): string => `${((rate / before) * 100).toFixed(0)} %`;
  return `${percent(copy)} while it was copied${postCopy === undefined ? "" : `, ${percent(postCopy)} in post-copy`}`;
}

function spanName(move: string, phase: string): string {
  return `${move}: ${phase}`;
}

/** Of all of them together. */
function ratesOf(results: readonly ClientResult[], move: string): Rates {
  const rates: Record<string, number> = {};
  const prefix = spanName(move, "");
  for (const { name, repliesPerSecond } of results.flatMap(({ spans }) => spans)) {
    if (!name.startsWith(prefix)) continue;
    const phase = name.slice(prefix.length);
    rates[phase] = (rates[phase] ?? 0) + repliesPerSecond;
  }
  return rates;
}
