/**
 * Which volumes of this host are only what a container left behind as it moved away: named volumes stay on the source, and a later
 * migration back may overwrite them, but no volume that somebody may need.
 */
import * as z from "zod";
import type { Journal, MigrationRecord } from "./journal.ts";

/** What both sides of a migration keep of the volumes it copies; a source, where nothing is done to it, also which it was. */
const detail = z.looseObject({ volumes: z.array(z.looseObject({ name: z.string(), identity: z.string().optional() })).default([]) });

/**
 * True if the last thing that happened to a volume here was that it moved away.
 * @param identity tells it from a later one of the same name
 */
export function hasMovedAway(journal: Journal, name: string, identity: string): boolean {
  for (const record of journal.list().filter(counts)) {
    const volume = detail.parse(record.detail).volumes.find((each) => each.name === name);
    if (volume !== undefined) return record.role === "source" && volume.identity === identity;
  }
  return false;
}

/** Whether a migration took the volume away for good, or may have brought it. Files have crossed when memory can still be lost. */
function counts({ role, state, report }: MigrationRecord): boolean {
  if (role === "target") return state !== "rolled-back";
  return state === "completed" || report?.error?.code === "MEMORY_LOST";
}
