/** What a command has around it: where it writes, the agent, the clock and the keyboard. */
import { isatty } from "node:tty";
import type { ControlClient } from "../agent/client.ts";
import { DmigrateError, ERROR_CODES } from "../core/errors.ts";
import { renderError } from "./render-error.ts";
import { coloured, colourless, type Paint } from "./text.ts";

/** A place for lines: a terminal, or a file or pipe. */
export interface Output {
  write(text: string): void;
  readonly isTerminal: boolean;
  /** Both change when the window does. */
  readonly columns: number;
  readonly rows: number;
  readonly paint: Paint;
}

export interface Surroundings {
  readonly out: Output;
  readonly err: Output;
  /** The agent's client; connects at the first call. */
  connect(socketPath: string | undefined): Promise<ControlClient>;
  /** Runs an agent until it is told to end; `flags` are unchecked. */
  serve(flags: Readonly<Record<string, string>>): Promise<void>;
  /** Outlives the agent of a migration; `flags` are unchecked. */
  guard(id: string, flags: Readonly<Record<string, string>>): Promise<void>;
  /** Unix time in milliseconds. */
  readonly now: () => number;
  /** Calls `listener` at each Ctrl-C, which then no longer ends the program, until disposed of. */
  onInterrupt(listener: () => void): Disposable;
}

/** Who signals a program and its group, as timeout(1) does, means one interrupt. */
const SAME_INTERRUPT_MS = 200;

/** Width of a text that goes to no terminal: wide enough for every picture. */
const FILE_COLUMNS = 100;

/** Swallows what is written. */
export const NOWHERE: Output = { write: () => {}, isTerminal: false, columns: FILE_COLUMNS, rows: Infinity, paint: colourless };

/** The real ones: this process's. */
export function processSurroundings(): Surroundings {
  return {
    out: outputOf(process.stdout),
    err: outputOf(process.stderr),
    connect: async (socketPath) => {
      const { controlClient } = await import("../agent/client.ts");
      return controlClient(socketPath);
    },
    serve: async (flags) => {
      const [{ serveUntilSignal }, { startSessions }] = await Promise.all([import("../agent/main.ts"), import("../agent/sessions.ts")]);
      await serveUntilSignal(flags, startSessions);
    },
    guard: async (id, flags) => {
      const { runGuard } = await import("../agent/guard-process.ts");
      await runGuard(id, flags);
    },
    now: () => Date.now(),
    onInterrupt: (listener) => {
      let lastMs = -Infinity;
      const heard = (): void => {
        const [beforeMs, nowMs] = [lastMs, performance.now()];
        lastMs = nowMs;
        if (nowMs - beforeMs > SAME_INTERRUPT_MS) listener();
      };
      process.on("SIGINT", heard);
      return { [Symbol.dispose]: () => void process.off("SIGINT", heard) };
    },
  };
}

function outputOf(stream: NodeJS.WriteStream & { readonly fd: number }): Output {
  const isTerminal = isatty(stream.fd) && process.env["TERM"] !== "dumb"; // such a one can't move its cursor
  stream.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") return; // who closed the pipe has read enough
    const output = stream === process.stdout ? "standard output" : "standard error";
    const failure = new DmigrateError(
      error.code === "ENOSPC" ? "NO_SPACE" : "INTERNAL",
      `Cannot write to ${output}: ${error.message}; what was asked for may have been done: \`dmigrate list\` tells of migrations`,
      error,
    );
    if (stream === process.stdout) process.stderr.write(`${renderError(failure, colourless).join("\n")}\n`);
    process.exit(ERROR_CODES[failure.code].exitCode);
  });
  return {
    write: (text) => void stream.write(text),
    isTerminal,
    get columns() {
      return (isTerminal && stream.columns) || FILE_COLUMNS; // a terminal may not know its size
    },
    get rows() {
      return (isTerminal && stream.rows) || Infinity;
    },
    // hasColors knows NO_COLOR and what the terminal can do.
    paint: isTerminal && stream.hasColors() ? coloured : colourless,
  };
}
