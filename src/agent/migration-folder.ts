/**
 * The folder that a migration has in the run directory of either host, as long as it lasts.
 */
import { execFile } from "node:child_process";
import { readFile, rm } from "node:fs/promises";
import { promisify } from "node:util";
import path from "node:path";
import type { MigrationId } from "../core/ids.ts";
import type { AgentConfig } from "./config.ts";

/** Where it lies. It may not exist. */
export function migrationFolder({ runDir }: AgentConfig, id: MigrationId): string {
  return path.join(runDir, "migrations", id);
}

/** Removes it with all that is in it, and unmounts first what an agent that was killed left mounted there. */
export async function removeMigrationFolder(config: AgentConfig, id: MigrationId): Promise<void> {
  const folder = migrationFolder(config, id);
  const mounts = (await readFile("/proc/self/mounts", "utf8")).split("\n").map((line) => line.split(" ")[1] ?? "");
  for (const mountPoint of mounts.filter((each) => each.startsWith(`${folder}/`))) await promisify(execFile)("umount", ["-l", mountPoint]);
  await rm(folder, { recursive: true, force: true });
}
