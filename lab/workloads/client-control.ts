/**
 * How a client program is driven from another process. It says `ready` on its standard output once it is being
 * answered; on its standard input it takes `mark NAME`, which begins a new span of its result, `span FROM TO NAME`, which asks for one
 * between two moments, and `stop`, which the end of the input, SIGINT and SIGTERM mean too; last it prints its result as one line of JSON.
 */
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type * as z from "zod";
import { DmigrateError } from "../../src/core/errors.ts";
import type { Mark, SpansWanted, Stretch } from "./client-result.ts";

/** The client's side; what spans are wanted is known little by little. */
export interface Control extends SpansWanted {
  /** Aborts when the client shall stop. */
  readonly stop: AbortSignal;
  /** Says that answers come. */
  readonly ready: () => void;
}

/** Takes orders from this process' standard input and signals. */
export function controlFromInput(): Control {
  const stop = new AbortController();
  const marks: Mark[] = [];
  const stretches: Stretch[] = [];
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => {
    if (line === "stop") stop.abort();
    else if (line.startsWith("mark ")) marks.push({ name: line.slice("mark ".length), timeMs: performance.now() });
    else if (SPAN.test(line)) stretches.push(stretchOf(line));
    else process.stderr.write(`Unknown order ${JSON.stringify(line)}; there are: mark NAME, span FROM TO NAME, stop\n`);
  });
  lines.once("close", () => stop.abort());
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.abort());
  stop.signal.addEventListener("abort", () => lines.close());
  return { stop: stop.signal, marks, stretches, ready: () => process.stdout.write("ready\n") };
}

/** Moments are milliseconds since 1970. */
const SPAN = /^span (?<from>[\d.]+) (?<to>[\d.]+) (?<name>.+)$/;

function stretchOf(line: string): Stretch {
  const { from, to, name = "" } = SPAN.exec(line)?.groups ?? {};
  return { name, fromMs: Number(from) - performance.timeOrigin, toMs: Number(to) - performance.timeOrigin };
}

/** The driver's side: a client program that runs as a child with piped input and output. */
export class ClientProcess<Result> {
  private readonly child: ChildProcess;
  private readonly schema: z.ZodType<Result>;
  private readonly becameReady: Promise<boolean>;
  private readonly lastLine: Promise<string>;

  /** @param schema form of the client's result */
  constructor(child: ChildProcess, schema: z.ZodType<Result>) {
    this.child = child;
    this.schema = schema;
    const { stdout } = child;
    if (stdout === null) throw new DmigrateError("INTERNAL", "A client was started without a pipe for its output; report this");
    // Orders to a client that has ended go nowhere; that it ended is noticed at its output.
    child.stdin?.on("error", () => undefined);
    let last = "";
    const lines = createInterface({ input: stdout });
    const closed = once(lines, "close");
    this.becameReady = new Promise((resolve) => {
      lines.on("line", (line) => {
        if (line === "ready") resolve(true);
        last = line;
      });
      lines.once("close", () => resolve(false));
    });
    this.lastLine = closed.then(() => last);
  }

  /** Resolves once the client is being answered; throws LAB if it ends before. */
  async ready(): Promise<void> {
    if (!(await this.becameReady)) throw new DmigrateError("LAB", "The client ended before it was answered; its error output tells why");
  }

  /** Begins a new span of the result. */
  mark(name: string): void {
    this.child.stdin?.write(`mark ${name}\n`);
  }

  /** Asks for a span of the result between two moments of this machine's clock, which need not be over. */
  span(name: string, fromMs: number, toMs: number): void {
    this.child.stdin?.write(`span ${fromMs} ${toMs} ${name}\n`);
  }

  /** Stops the client; resolves to its result. Throws LAB if it ended without one. */
  async stop(): Promise<Result> {
    this.child.stdin?.end("stop\n");
    const line = await this.lastLine;
    try {
      return this.schema.parse(JSON.parse(line));
    } catch (error) {
      throw new DmigrateError("LAB", "The client ended without a result; its error output tells why", error);
    }
  }
}
