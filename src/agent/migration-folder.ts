/**
 * The folder that a migration has in the run directory of either host, as long as it lasts.
 */
import path from "node:path";
import type { MigrationId } from "../core/ids.ts";
import { removeFolder } from "../kernel/mounted-folder.ts";
import type { AgentConfig } from "./config.ts";

/** Where it lies. It may not exist. */
export function migrationFolder({ runDir }: AgentConfig, id: MigrationId): string {
  return path.join(runDir, "migrations", id);
}

/** Removes it with all that is in it, also what an agent that was killed left mounted there. */
export async function removeMigrationFolder(config: AgentConfig, id: MigrationId): Promise<void> {
  await removeFolder(migrationFolder(config, id));
}
