/**
 * HTTP to a Docker Engine over its unix socket: one request, one answer or stream, one kind of error.
 */
import http, { type IncomingMessage } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { text } from "node:stream/consumers";
import { DmigrateError, messageOf } from "../core/errors.ts";
import { parseExact, stringifyExact } from "../core/json.ts";

/** What the engine said when it refused; the cause of the DOCKER error that `Transport` throws. */
export class EngineRefusal extends Error {
  override readonly name = "EngineRefusal";
  /** HTTP status: 404 no such thing, 409 in the way of something else. */
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** What the engine said, if `thrown` comes from an answer of the engine. */
export function refusalOf(thrown: unknown): EngineRefusal | undefined {
  return thrown instanceof DmigrateError && thrown.cause instanceof EngineRefusal ? thrown.cause : undefined;
}

/** True if the engine answered that there is no such thing. */
export function isNotFound(thrown: unknown): boolean {
  return refusalOf(thrown)?.status === 404;
}

/** What to `catch` with where the engine may as well answer with one of these statuses: that is no error then. */
export function unless(...statuses: readonly number[]): (error: unknown) => undefined {
  return (error) => {
    if (!statuses.includes(refusalOf(error)?.status ?? 0)) throw error;
    return undefined;
  };
}

/** Parts of a request besides method and path. */
export interface CallOptions {
  readonly query?: Readonly<Record<string, string | number | boolean | undefined>>;
  /** Sent as JSON. */
  readonly body?: unknown;
  /** Sent as a tar archive of unknown length; not together with `body`. */
  readonly upload?: AsyncIterable<Uint8Array>;
}

/** An engine that has not answered by then hangs, unless it was asked to wait for something. */
const ANSWER_LIMIT_MS = 60_000;

export interface TransportOptions {
  readonly signal?: AbortSignal;
  readonly limitMs?: number;
}

/** Sends requests to the engine behind one socket. Holds no connection open between them. */
export class Transport {
  readonly socketPath: string;
  readonly #prefix: string;
  readonly #signal: AbortSignal | undefined;
  readonly #limitMs: number;

  /**
   * @param prefix what comes before every path, like `/v1.44`
   * @param options `signal` ends every request under way and to come; `limitMs` is for an answer in JSON
   */
  constructor(socketPath: string, prefix: string, { signal, limitMs = ANSWER_LIMIT_MS }: TransportOptions = {}) {
    this.socketPath = socketPath;
    this.#prefix = prefix;
    this.#signal = signal;
    this.#limitMs = limitMs;
  }

  /** The same engine with other paths, or other options. */
  with({ prefix = this.#prefix, signal = this.#signal, limitMs = this.#limitMs }: { prefix?: string } & TransportOptions): Transport {
    return new Transport(this.socketPath, prefix, { ...(signal === undefined ? {} : { signal }), limitMs });
  }

  /** The answer's JSON, undefined if it has none. Throws DOCKER, also if the engine does not answer in time. */
  async json(method: string, path: string, options: CallOptions = {}): Promise<unknown> {
    if (this.#limitMs === Infinity) return await this.#json(method, path, options);
    const limit = AbortSignal.timeout(this.#limitMs);
    const signal = this.#signal === undefined ? limit : AbortSignal.any([this.#signal, limit]);
    try {
      return await this.with({ signal }).#json(method, path, options);
    } catch (error) {
      if (!limit.aborted || this.#signal?.aborted === true) throw error;
      const silence = `has not answered ${method} ${path} for ${this.#limitMs / 1000} s`;
      throw new DmigrateError("DOCKER", `Docker Engine at ${this.socketPath} ${silence}; see whether dockerd hangs there`, error);
    }
  }

  async #json(method: string, path: string, options: CallOptions): Promise<unknown> {
    const body = await text(await this.stream(method, path, options));
    try {
      return body === "" ? undefined : parseExact(body);
    } catch (error) {
      throw this.#failure(`${method} ${path}`, error);
    }
  }

  /** The answer as it comes; whoever takes it reads it to its end or destroys it. It, too, fails with DOCKER. */
  async stream(method: string, path: string, options: CallOptions = {}): Promise<Readable> {
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    const request = http.request({
      socketPath: this.socketPath,
      agent: false,
      method,
      path: `${this.#prefix}${path}${queryString(options.query)}`,
      headers: headersFor(options),
      ...(this.#signal === undefined ? {} : { signal: this.#signal }),
    });
    request.once("response", resolve);
    request.once("error", reject);
    if (options.upload === undefined) request.end(options.body === undefined ? undefined : stringifyExact(options.body));
    else pipeline(Readable.from(options.upload), request).catch(reject);
    let answer: IncomingMessage;
    try {
      answer = await promise;
    } catch (error) {
      throw this.#failure(`${method} ${path}`, error);
    }
    const status = answer.statusCode ?? 0;
    // 304: it is already as it was to become.
    if ((status >= 200 && status < 300) || status === 304) return this.#failingAsOurs(answer, `${method} ${path}`);
    throw refused(`${method} ${path}`, new EngineRefusal(status, await engineMessage(answer)));
  }

  /** An engine may end in the middle of an answer. */
  #failingAsOurs(answer: IncomingMessage, what: string): Readable {
    const failure = (error: unknown): DmigrateError => this.#failure(what, error);
    async function* chunks(): AsyncGenerator<Buffer, void> {
      try {
        yield* answer;
      } catch (error) {
        throw failure(error);
      }
    }
    return Readable.from(chunks(), { objectMode: false }).once("close", () => answer.destroy());
  }

  #failure(what: string, error: unknown): DmigrateError {
    if (this.#signal?.aborted === true) return DmigrateError.from(this.#signal.reason, "CANCELLED");
    if (error instanceof DmigrateError) return error;
    const unreachable =
      error instanceof Error && "code" in error && ["ENOENT", "ECONNREFUSED", "EACCES", "ENOTSOCK"].includes(String(error.code));
    const action = unreachable ? "reach Docker Engine" : `ask Docker Engine for ${what}`;
    return new DmigrateError(
      "DOCKER",
      `Could not ${action} at ${this.socketPath}: ${messageOf(error)}; see whether dockerd runs there`,
      error,
    );
  }
}

/** What the engine says of its full disk. */
export const FULL = /no space left on device/i;

function refused(what: string, refusal: EngineRefusal): DmigrateError {
  if (FULL.test(refusal.message)) {
    const full = `Docker Engine's disk is full: it refused ${what} (${refusal.message}); free some space there`;
    return new DmigrateError("NO_SPACE", full, refusal);
  }
  const remedy = refusal.status >= 500 ? "dockerd's own log may tell more" : "change what it objects to";
  return new DmigrateError("DOCKER", `Docker Engine refused ${what} with ${refusal.status}: ${refusal.message}; ${remedy}`, refusal);
}

/** Errors are `{"message": ...}`; what else comes (from a proxy, say) is shown as it is. */
async function engineMessage(answer: Readable): Promise<string> {
  const body = await text(answer);
  try {
    const parsed = parseExact(body);
    if (typeof parsed === "object" && parsed !== null && "message" in parsed) return String(parsed.message).trim();
  } catch {
    // Not JSON.
  }
  return body.trim();
}

function headersFor(options: CallOptions): Record<string, string> {
  if (options.upload !== undefined) return { "Content-Type": "application/x-tar" };
  return options.body === undefined ? {} : { "Content-Type": "application/json" };
}

function queryString(query: CallOptions["query"] = {}): string {
  const parameters = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) if (value !== undefined) parameters.set(key, String(value));
  return parameters.size === 0 ? "" : `?${parameters.toString()}`;
}
