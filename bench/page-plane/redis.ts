/**
 * The demo's redis, measured: `dmigrate demo` moves it, and its client says how long it waited.
 */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import * as z from "zod";
import type { Mode } from "../../src/core/migration.ts";

const DMIGRATE = fileURLToPath(new URL("../../bin/dmigrate", import.meta.url));

const result = z.looseObject({
  verified: z.literal(true),
  moves: z.array(z.looseObject({ clientDowntimeMs: z.number() })),
  phases: z.array(z.looseObject({ name: z.string(), startMs: z.number(), endMs: z.number() })),
  bytes: z.looseObject({ memory: z.number() }),
});

/** What the client waited for at each move, and the report of the last one. */
export type DemoResult = z.infer<typeof result>;

/** Runs the demo. Throws if not everything that it proves holds. */
export async function demo(options: {
  readonly moves: number;
  readonly megabytes?: number;
  readonly rate?: string;
  readonly mode?: Mode;
}): Promise<DemoResult> {
  const flags = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const { stdout } = await promisify(execFile)(DMIGRATE, ["demo", "--name", "bench", "--no-verify", "--json", ...flags]);
  return result.parse(JSON.parse(stdout));
}
