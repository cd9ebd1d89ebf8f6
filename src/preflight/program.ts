/**
 * Runs a program to see whether it works.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { messageOf } from "../core/errors.ts";
import type { Feature } from "../core/preflight-facts.ts";

/** A program that takes longer is taken for broken: CRIU can hang in ptrace(2). */
const LIMIT_MS = 10_000;

/** How a program ended, and all it said. */
export interface ProgramRun {
  readonly succeeded: boolean;
  readonly said: string;
}

/** Runs a program to its end, or ends it, and what it started. */
export async function run(program: string, args: readonly string[]): Promise<ProgramRun> {
  const child = spawn(program, args, { cwd: "/", detached: true, stdio: ["ignore", "pipe", "pipe"] });
  const said = Promise.all([text(child.stdout), text(child.stderr)]);
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL"); // detached: it leads a process group
  }, LIMIT_MS);
  try {
    const [code, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null]; // as child_process documents
    const [stdout, stderr] = await said;
    if (code === 0) return { succeeded: true, said: stdout + stderr };
    const ended = isLate ? `did not end within ${LIMIT_MS / 1000} s` : `was ended by ${signal}`;
    return { succeeded: false, said: code === null ? `${program} ${ended}` : stderr + stdout || `${program} ended with ${code}` };
  } catch (error) {
    return { succeeded: false, said: notStarted(program, error) };
  } finally {
    clearTimeout(timer);
  }
}

function notStarted(program: string, error: unknown): string {
  const { code } = error as NodeJS.ErrnoException; // as child_process documents for the event `error`
  if (code === "ENOENT") return `${program} is not installed`;
  if (code === "EACCES") return `${program} may not be executed`;
  return messageOf(error);
}

/** What works, or the reason in the program's own words. */
export function feature(attempt: ProgramRun, version: string): Feature {
  return attempt.succeeded ? { works: true, version } : { works: false, reason: complaint(attempt.said) };
}

/** What a program complained of: the errors of CRIU's log without their place in its source, or else all it said, in one line. */
export function complaint(said: string): string {
  const lines = said
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
  // Without CAP_SYS_RESOURCE CRIU complains of its own rlimit at every start, and works all the same.
  const errors = lines.flatMap((line) => /Error \([^)]*\): (.*)$/.exec(line)?.[1] ?? []).filter((error) => !error.startsWith("rlimit:"));
  return [...new Set(errors.length > 0 ? errors : lines)].join(", ");
}
