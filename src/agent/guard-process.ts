/**
 * `dmigrate guard`: a process of its own for each migration at its source, which outlives the agent (src/agent/source/guard.ts). It does
 * what must not be left half done when the agent is killed: it makes calls inside the container's processes, and if the agent ends before
 * the handover it lets the container run on.
 *
 * A line of JSON each way: `{ track: PID }` is answered with `{ fd: N }`, a userfaultfd of that process in this one, or with `{ error }`;
 * `{ drop: N }` closes that; `{ ended: true }` ends the guard. Standard input ends with the agent.
 */
import { closeSync } from "node:fs";
import { createInterface } from "node:readline";
import { DmigrateError } from "../core/errors.ts";
import { openUserfaultfd } from "../kernel/write-protection.ts";
import type { RawConfig } from "./config.ts";

type Request = { readonly track: number } | { readonly drop: number } | { readonly ended: true };

/** Serves the agent until that says that the migration has ended, or ends itself: then the container runs on here. */
export async function runGuard(id: string, flags: RawConfig): Promise<void> {
  for await (const line of createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line) as Request; // from the agent that has started this, a program of the same release
    if ("ended" in asked) return;
    if ("drop" in asked) closeSync(asked.drop);
    else process.stdout.write(`${JSON.stringify(await track(asked.track))}\n`);
  }
  const { releaseOrphan } = await import("./source/release.ts");
  await releaseOrphan(id, flags);
}

async function track(pid: number): Promise<{ readonly fd: number } | { readonly error: string }> {
  try {
    return { fd: await openUserfaultfd(pid) };
  } catch (error) {
    return { error: DmigrateError.from(error).message };
  }
}
