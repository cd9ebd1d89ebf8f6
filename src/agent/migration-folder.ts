/**
 * The folder that a migration has in the run directory of either host, as long as it lasts; and how folders of migrations go.
 */
import { execFile } from "node:child_process";
import { readFile, rm } from "node:fs/promises";
import { promisify } from "node:util";
import path from "node:path";
import type { MigrationId } from "../core/ids.ts";
import { parseMountinfo } from "../kernel/mountinfo.ts";
import type { AgentConfig } from "./config.ts";

/** Where it lies. It may not exist. */
export function migrationFolder({ runDir }: AgentConfig, id: MigrationId): string {
  return path.join(runDir, "migrations", id);
}

/** Removes it with all that is in it, also what an agent that was killed left mounted there. */
export async function removeMigrationFolder(config: AgentConfig, id: MigrationId): Promise<void> {
  await removeFolder(migrationFolder(config, id));
}

/** Removes a folder with all that is in it, and unmounts first what is mounted there. It need not exist. */
export async function removeFolder(folder: string): Promise<void> {
  const mounts = parseMountinfo(await readFile("/proc/self/mountinfo", "utf8")).map((mount) => mount.path);
  for (const mountPoint of mounts.toReversed()) {
    if (mountPoint === folder || mountPoint.startsWith(`${folder}/`)) await promisify(execFile)("umount", ["-l", mountPoint]);
  }
  await rm(folder, { recursive: true, force: true });
}
