/**
 * What a guard does when the agent of its source was killed: if the migration was not committed, the container runs on here. The next agent
 * finds the migration as it was, tells its target, and ends it.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError } from "../../core/errors.ts";
import { migrationId } from "../../core/ids.ts";
import { Engine } from "../../docker/engine.ts";
import { unless } from "../../docker/transport.ts";
import { parseConfig, rawConfig, type AgentConfig, type RawConfig } from "../config.ts";
import { Journal, type MigrationRecord } from "../journal.ts";
import { readDetail } from "./detail.ts";
import { letRunOn, restartAsItWould, returnPolicy } from "./run-on.ts";

/** How long the agent that was killed may take to be gone. If it is its successor that has the journal, that does what is done here. */
const JOURNAL_WAIT_MS = 10_000;
/** How long an engine that has ended, too, may take to come back. */
const ENGINE_LIMIT_MS = 600_000;
const ENGINE_RETRY_MS = 1_000;

/** Throws AGENT if an agent has the journal. */
export async function releaseOrphan(id: string, flags: RawConfig): Promise<void> {
  const config = parseConfig(rawConfig(flags, process.env));
  {
    using journal = Journal.open(config.stateDir, JOURNAL_WAIT_MS);
    const record = journal.get(migrationId(id));
    if (!isOrphan(record)) return;
    await letRunOn({ config, journal }, record);
    if (readDetail(record.detail).frozen === undefined) return; // it has its restart policy
  }
  await returnPolicyOnce(config, id);
}

/** A migration that was committed is the target's. */
function isOrphan({ role, state }: MigrationRecord): boolean {
  return role === "source" && state === "running";
}

/** An engine may be restarted just now, too. Meanwhile an agent may start, and do this itself. */
async function returnPolicyOnce(config: AgentConfig, id: string): Promise<void> {
  const deadline = performance.now() + ENGINE_LIMIT_MS;
  for (;;) {
    try {
      const engine = await Engine.connect(config.dockerSocket);
      const { record, lacked } = await decide(config, id, engine);
      if (lacked !== undefined) await restartAsItWould(engine, record, lacked);
      return;
    } catch (error) {
      if (DmigrateError.from(error).code !== "DOCKER" || performance.now() > deadline) throw error;
      await sleep(ENGINE_RETRY_MS);
    }
  }
}

/** Has the journal no longer than it must: no agent can start meanwhile. */
async function decide(config: AgentConfig, id: string, engine: Engine) {
  using journal = Journal.open(config.stateDir);
  const record = journal.get(migrationId(id));
  const lacked = isOrphan(record) ? await returnPolicy({ journal }, engine, record).catch(unless(404)) : undefined;
  return { record, lacked };
}
