/**
 * Runs a program to see whether it works.
 */
import { execFile, type ExecFileException } from "node:child_process";
import type { Feature } from "../core/preflight-facts.ts";

/** A program that takes longer is taken for broken: CRIU can hang in ptrace(2). */
const LIMIT_MS = 10_000;

/** How a program ended, and all it said. */
export interface ProgramRun {
  readonly succeeded: boolean;
  readonly said: string;
}

/** Runs a program to its end. */
export function run(program: string, args: readonly string[]): Promise<ProgramRun> {
  return new Promise((resolve) => {
    execFile(program, args, { cwd: "/", timeout: LIMIT_MS, killSignal: "SIGKILL" }, (error, stdout, stderr) => {
      if (error === null) resolve({ succeeded: true, said: stdout + stderr });
      else resolve({ succeeded: false, said: whyNot(program, error) ?? (stderr + stdout || error.message) });
    });
  });
}

/** Why a program could not come to an end by itself; undefined if it did. */
function whyNot(program: string, { code, killed, signal }: ExecFileException): string | undefined {
  if (code === "ENOENT") return `${program} is not installed`;
  if (code === "EACCES") return `${program} may not be executed`;
  if (killed === true) return `${program} did not end within ${LIMIT_MS / 1000} s`;
  return signal ? `${program} was ended by ${signal}` : undefined;
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
