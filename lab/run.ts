/**
 * Runs other programs for the lab: argv in, text out, a failure says what was run and what it printed.
 */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { DmigrateError } from "../src/core/errors.ts";

const execFileAsync = promisify(execFile);

/** Runs a program to its end and returns its standard output; throws LAB with its standard error. */
export async function run(program: string, ...args: readonly string[]): Promise<string> {
  try {
    const { stdout } = await execFileAsync(program, args, { maxBuffer: 64 << 20 });
    return stdout;
  } catch (error) {
    const stderr = error instanceof Error && "stderr" in error ? String(error.stderr).trim() : "";
    throw new DmigrateError("LAB", `\`${[program, ...args].join(" ")}\` failed: ${stderr || String(error)}`, error);
  }
}
