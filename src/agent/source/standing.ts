/**
 * The tasks that a commit left frozen, as the journal knows them: the next agent reads their memory only if it is theirs still.
 */
import { readFileSync } from "node:fs";
import * as z from "zod";
import type { Freezer } from "../../criu/freezer.ts";
import { startOf } from "../../kernel/tasks.ts";

/** See above. */
export const standingTasks = z.object({
  /** Which start of the machine their starts count from. */
  bootId: z.string(),
  tasks: z.array(
    z.object({
      /** Its id inside the container, and on this host. */
      process: z.int(),
      pid: z.int(),
      startTicks: z.number(),
    }),
  ),
});
type StandingTasks = z.infer<typeof standingTasks>;

/** @param tasks process ids on this host by those inside the container */
export function noteTasks(tasks: ReadonlyMap<number, number>): StandingTasks {
  return { bootId: bootId(), tasks: [...tasks].map(([process, pid]) => ({ process, pid, startTicks: startOf(pid) ?? 0 })) };
}

/**
 * All of them, process ids on this host by those inside the container; undefined unless each is there and has not run since.
 * @param freezer of the container, if it has one
 */
export async function findTasks(
  { bootId: noted, tasks }: StandingTasks,
  freezer: Freezer | undefined,
): Promise<Map<number, number> | undefined> {
  if (freezer === undefined || !(await freezer.isFrozen())) return undefined;
  if (noted !== bootId() || tasks.some(({ pid, startTicks }) => startOf(pid) !== startTicks)) return undefined;
  return new Map(tasks.map(({ process, pid }) => [process, pid]));
}

function bootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}
