/**
 * `dmigrate release`: what a migration's guard has run when the agent of its source was killed (src/agent/source/guard.ts).
 */
import { migrationId } from "../core/ids.ts";
import { parseConfig, rawConfig, type RawConfig } from "./config.ts";
import { Journal } from "./journal.ts";
import { readDetail, type SourceDetail } from "./source/detail.ts";
import { letRunOn } from "./source/run-on.ts";

/** How long the agent that was killed may take to be gone. If it is its successor that has the journal, that does what is done here. */
const JOURNAL_WAIT_MS = 10_000;

/**
 * Lets the container of a migration run on unless it has been committed. The next agent finds the migration as it was, tells its target,
 * and ends it. Throws AGENT if an agent has the journal.
 */
export async function releaseOrphan(id: string, flags: RawConfig): Promise<void> {
  const config = parseConfig(rawConfig(flags, process.env));
  using journal = Journal.open(config.stateDir, JOURNAL_WAIT_MS);
  const record = journal.get(migrationId(id));
  if (record.role !== "source" || record.state !== "running") return;
  const downtimeMs = await letRunOn(config, record);
  journal.note(record.id, { ...readDetail(record.detail), ranOn: { atMs: Date.now(), downtimeMs } } satisfies SourceDetail);
}
