/**
 * What has been tried of a program and worked, for as long as its file stays the same: a trial costs some ten milliseconds, and each host
 * of a migration makes a dozen. What failed is tried again, for somebody may have mended it.
 */
import { stat } from "node:fs/promises";
import path from "node:path";
import { run, type ProgramRun } from "./program.ts";

interface Trial {
  /** Of the program's file, as it was before the trial. */
  readonly identity: string;
  readonly result: unknown;
}

const worked = new Map<string, Trial>();

/** `run`, or what that returned before. */
export function runOnce(program: string, args: readonly string[]): Promise<ProgramRun> {
  return tryOnce({ program, name: args.join(" "), attempt: () => run(program, args), hasWorked: ({ succeeded }) => succeeded });
}

/** What `attempt` returns, or did before if that is what has worked. A name stands for one kind of attempt. */
export async function tryOnce<T>(trial: {
  readonly program: string;
  readonly name: string;
  readonly attempt: () => Promise<T>;
  readonly hasWorked: (result: T) => boolean;
}): Promise<T> {
  const key = `${trial.program} ${trial.name}`;
  const identity = await identityOf(trial.program);
  const known = worked.get(key);
  if (identity !== undefined && known?.identity === identity) return known.result as T; // the name says so
  const result = await trial.attempt();
  if (identity !== undefined && trial.hasWorked(result)) worked.set(key, { identity, result });
  return result;
}

/** Changes with whatever becomes of the file that the program's name leads to; undefined if there is none. */
async function identityOf(program: string): Promise<string | undefined> {
  for (const folder of (process.env["PATH"] ?? "").split(path.delimiter)) {
    const file = path.join(folder, program);
    const found = await stat(file, { bigint: true }).catch(() => {});
    if (found?.isFile() === true) return [file, found.dev, found.ino, found.size, found.mode, found.ctimeNs].join(" ");
  }
  return undefined;
}
