/**
 * Recovery: what becomes of a migration whose source agent ended in the middle of it.
 *
 * Before the commit the source owns the container, and it runs on here. After it the target owns it, and only the target's
 * written word that it rolled back lets it run here again.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError, messageOf } from "../../core/errors.ts";
import { NO_PAGES, totalBytes, type JournalState, type Outcome, type Report } from "../../core/migration.ts";
import { reportSoFar } from "../../core/report-so-far.ts";
import { breakOff } from "../../criu/lazy-dump.ts";
import { Engine } from "../../docker/engine.ts";
import { despiteRestart } from "../../docker/restart.ts";
import { isNotFound } from "../../docker/transport.ts";
import type { AgentContext } from "../context.ts";
import type { MigrationRecord } from "../journal.ts";
import { removeMigrationFolder } from "../migration-folder.ts";
import type { Doubts } from "./doubts.ts";
import { readDetail } from "./detail.ts";
import { letRunOn, restartAsItWould, returnPolicy } from "./run-on.ts";
import { memoryLost, removeShell } from "./shell.ts";

/** How long others are kept waiting for migrations that are being rolled back: whoever migrates next finds them ended, as a rule. */
const RECOVERY_WAIT_MS = 2_000;
/** How long a target may take to complete, or to fail, once its source has gone. */
const COMPLETION_LIMIT_MS = 10_000;
const COMPLETION_RETRY_MS = 200;

/**
 * Brings every unfinished migration of an earlier agent to its end. A failure of one does not keep the others from it. When this returns
 * all containers run on that may; what another host or the engine must be asked about goes on behind this.
 */
export async function recoverMigrations(context: AgentContext, doubts: Doubts): Promise<void> {
  const recoveries: Promise<void>[] = [];
  for (const record of context.journal.unfinished("source")) {
    if (record.state === "committed") {
      void recover(context, record, settle(context, doubts, record));
      continue;
    }
    const runsOn = letRunOn(context, record);
    const rolledBack = runsOn.then(() => rollBack(context, record));
    recoveries.push(recover(context, record, rolledBack));
    await runsOn.catch(() => {}); // told by its report
  }
  await Promise.race([Promise.all(recoveries), sleep(RECOVERY_WAIT_MS, undefined, { ref: false })]);
}

async function recover(context: AgentContext, record: MigrationRecord, work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    context.log.error({ err: error, migration: record.id }, "could not recover a migration");
    end(context, record, "failed", { error: DmigrateError.from(error) });
  }
  await removeMigrationFolder(context.config, record.id);
}

/** The target was asked to take the container over: it has done so or, since its source was lost before it did, will not. */
async function settle(context: AgentContext, doubts: Doubts, record: MigrationRecord): Promise<void> {
  const { id, container, peer } = record;
  const urge = async (): Promise<void> => await context.peers.to(peer).abort(id);
  const verdict = await doubts.settle({
    id,
    container,
    target: peer,
    reason: await urge().catch((error: unknown) => error),
    urge,
    state: () => stateOnTarget(context, record),
    tell: (text) => {
      context.log.warn({ migration: id }, text);
      context.events.publish(id, { kind: "warning", atMs: Date.now() - record.beganAtMs, message: text });
    },
  });
  switch (verdict) {
    case "rolled-back":
      await letRunOn(context, record);
      return await rollBack(context, record);
    case "completed":
      return await letGo(context, record);
    case "owner":
    case "failed":
      return await leaveFrozen(context, record);
  }
}

/** The target has the container without all of its memory. */
async function leaveFrozen(context: AgentContext, record: MigrationRecord): Promise<void> {
  const { frozen } = readDetail(record.detail);
  await breakOff(frozen?.pagePort ?? 0);
  const error = memoryLost(record.container, record.peer, frozen?.initPid ?? 0, "the agent of its source ended");
  end(context, record, "failed", { error });
}

/** A target that has the container may be just about to find out whether it has all of its memory. */
async function stateOnTarget({ peers }: AgentContext, { id, peer }: MigrationRecord): Promise<JournalState | undefined> {
  const deadline = performance.now() + COMPLETION_LIMIT_MS;
  for (;;) {
    const state = await peers.to(peer).state(id);
    if (state !== "owner" || performance.now() > deadline) return state;
    await sleep(COMPLETION_RETRY_MS);
  }
}

/** The container runs on here: it gets its restart policy back, and the target is told. */
async function rollBack(context: AgentContext, { id, peer, container }: MigrationRecord): Promise<void> {
  const record = context.journal.get(id); // with what has been noted since
  const [became] = await Promise.all([
    ownPolicyBack(context, record),
    context.peers
      .to(peer)
      .abort(id)
      .catch((error: unknown) => context.log.warn({ err: error, migration: id }, "the target could not be told to clean up")),
  ]);
  const fate = became === undefined ? `but ${container} keeps running here; migrate it again` : `and ${container} ${became}`;
  const text = `The agent ended during the migration, ${fate}`;
  end(context, record, "rolled-back", { error: new DmigrateError("AGENT", text) });
}

/** Returns what became of a container that has not run on, or lacks its policy. */
async function ownPolicyBack(context: AgentContext, record: MigrationRecord): Promise<string | undefined> {
  try {
    const engine = await despiteRestart(() => Engine.connect(context.config.dockerSocket));
    const lacked = await returnPolicy(context, engine, record);
    return lacked === undefined ? undefined : await restartAsItWould(engine, record, lacked);
  } catch (error) {
    if (isNotFound(error)) return "was removed meanwhile";
    return `may have lost its restart policy, or have ended (${messageOf(error)}); see \`docker ps --all\``;
  }
}

/** The target has all of the container. */
async function letGo(context: AgentContext, record: MigrationRecord): Promise<void> {
  const { frozen } = readDetail(record.detail);
  if (frozen !== undefined) {
    await breakOff(frozen.pagePort);
    const engine = await despiteRestart(() => Engine.connect(context.config.dockerSocket));
    await removeShell(engine, record.containerId, frozen);
  }
  end(context, record, "completed");
}

/** Ends a migration of which this agent knows only what the journal has. */
function end(context: AgentContext, record: MigrationRecord, outcome: Outcome, { error }: { readonly error?: DmigrateError } = {}): void {
  const { phases, downtimeMs, bytes, plans, prediction, warnings } = reportSoFar(
    context.journal.events(record.id, 0, Number.MAX_SAFE_INTEGER).map(({ event }) => event),
  );
  const { mode, ranOn } = readDetail(record.detail);
  const report: Report = {
    id: record.id,
    container: record.container,
    containerId: record.containerId,
    source: context.self(),
    target: record.peer,
    mode,
    outcome,
    totalMs: (ranOn?.atMs ?? Date.now()) - record.beganAtMs,
    downtimeMs: ranOn?.downtimeMs ?? downtimeMs,
    phases,
    steps: [],
    bytes: { ...bytes, total: totalBytes(bytes) },
    pages: NO_PAGES,
    plans,
    ...(prediction === undefined ? {} : { prediction }),
    warnings: [
      ...warnings,
      "The agent was restarted during this migration: what it did not tell in time was lost, its counts of pages too",
    ],
    ...(error === undefined ? {} : { error: { code: error.code, message: messageOf(error) } }),
  };
  context.events.end(record.id, report);
}
