/**
 * Recovery: what becomes of a migration whose source agent ended in the middle of it.
 *
 * Before the commit the source owns the container, and it runs on here. After it the target owns it, and only the target's
 * written word that it rolled back lets it run here again; what it lacks of its memory comes from the frozen tasks as long as these stand.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError, messageOf } from "../../core/errors.ts";
import { NO_PAGES, totalBytes, type JournalState, type Outcome, type Report } from "../../core/migration.ts";
import type { MigrationId } from "../../core/ids.ts";
import { reportSoFar, type ReportSoFar } from "../../core/report-so-far.ts";
import { breakOff } from "../../criu/lazy-dump.ts";
import { Engine } from "../../docker/engine.ts";
import { despiteRestart } from "../../docker/restart.ts";
import { isNotFound } from "../../docker/transport.ts";
import type { AgentContext } from "../context.ts";
import type { MigrationRecord } from "../journal.ts";
import { removeMigrationFolder } from "../migration-folder.ts";
import type { Doubts, Verdict } from "./doubts.ts";
import { readDetail } from "./detail.ts";
import { letRunOn, ownFreezer, restartAsItWould, returnPolicy } from "./run-on.ts";
import { memoryLost, removeShell } from "./shell.ts";
import { expectAgain, type Known, type TakenUp } from "./take-up.ts";

/** A warning. */
const INCOMPLETE = "The agent was restarted during this migration: what it did not tell in time was lost, its counts of pages too";
/** How long others are kept waiting for migrations that are being rolled back: whoever migrates next finds them ended, as a rule. */
const RECOVERY_WAIT_MS = 2_000;
/** How long a target may take to complete, or to fail, once its source has gone. */
const COMPLETION_LIMIT_MS = 10_000;
const COMPLETION_RETRY_MS = 200;

/**
 * Brings every unfinished migration of an earlier agent to its end. A failure of one does not keep the others from it. When this returns
 * all containers run on that may, and targets that lack pages may dial; what another host or the engine must be asked about goes on behind
 * this.
 * @param takenUp what this agent serves, for as long as it does
 */
export async function recoverMigrations(context: AgentContext, doubts: Doubts, takenUp: Map<MigrationId, TakenUp>): Promise<void> {
  const recoveries: Promise<void>[] = [];
  for (const record of context.journal.unfinished("source")) {
    if (record.state === "committed") {
      void recover(context, record, settle(context, doubts, record, takenUp));
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
async function settle(context: AgentContext, doubts: Doubts, record: MigrationRecord, takenUp: Map<MigrationId, TakenUp>): Promise<void> {
  const { id } = record;
  using expected = expectAgain(context, record);
  const taken = await expected.taken;
  const verdict = taken !== undefined && isTaken(record) ? "owner" : await askTarget(context, doubts, record, taken !== undefined);
  switch (verdict) {
    case "rolled-back":
      expected[Symbol.dispose](); // what runs is not read any more
      await letRunOn(context, record);
      return await rollBack(context, record);
    case "completed":
    case "owner":
      if (taken === undefined) return await (verdict === "owner" ? leaveFrozen(context, record) : letGo(context, record));
      takenUp.set(id, taken);
      try {
        return await finish(context, record, taken);
      } finally {
        takenUp.delete(id);
      }
    case "failed":
      return await leaveFrozen(context, record);
  }
}

/** Whether the agent before knew that the target had taken the container over. */
function isTaken({ phase }: MigrationRecord): boolean {
  return phase === "post-copy" || phase === "finish";
}

async function askTarget(context: AgentContext, doubts: Doubts, record: MigrationRecord, isServed: boolean): Promise<Verdict> {
  const { id, container, peer } = record;
  const urge = async (): Promise<void> => await context.peers.to(peer).abort(id);
  return await doubts.settle({
    id,
    container,
    target: peer,
    reason: await urge().catch((error: unknown) => error),
    urge,
    state: () => (isServed ? context.peers.to(peer).state(id) : stateOnTarget(context, record)),
    tell: (text) => {
      context.log.warn({ migration: id }, text);
      context.events.publish(id, { kind: "warning", atMs: Date.now() - record.beganAtMs, message: text });
    },
  });
}

/** The target has the container, and all of its memory stands here. */
async function finish(context: AgentContext, record: MigrationRecord, taken: TakenUp): Promise<void> {
  try {
    const known = await taken.finish(toldSoFar(context, record).bytes);
    end(context, record, known.error === undefined ? "completed" : "failed", known);
  } catch (error) {
    end(context, record, "failed", { error: DmigrateError.from(error) });
  }
}

/** The target has the container without all of its memory. */
async function leaveFrozen(context: AgentContext, record: MigrationRecord): Promise<void> {
  const { frozen } = readDetail(record.detail);
  await breakOff(frozen?.pagePort ?? 0);
  const freezer = await ownFreezer(frozen?.initPid, record.containerId);
  const isThere = frozen !== undefined && freezer !== undefined;
  const error = memoryLost(record.container, record.peer, isThere ? frozen.initPid : 0, "the agent of its source ended");
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

function toldSoFar({ journal }: AgentContext, { id }: MigrationRecord): ReportSoFar {
  return reportSoFar(journal.events(id, 0, Number.MAX_SAFE_INTEGER).map(({ event }) => event));
}

/** Ends a migration of which this agent knows only what the journal has. */
function end(context: AgentContext, record: MigrationRecord, outcome: Outcome, known: Known = {}): void {
  const told = toldSoFar(context, record);
  const { phases, plans, prediction, warnings } = told;
  const { downtimeMs = told.downtimeMs, steps = [], bytes = told.bytes, pages, verification, error } = known;
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
    steps,
    bytes: { ...bytes, total: totalBytes(bytes), late: 0 },
    pages: pages ?? NO_PAGES,
    rounds: [],
    plans,
    ...(prediction === undefined ? {} : { prediction }),
    ...(verification === undefined ? {} : { verification }),
    warnings: [...warnings, ...(pages === undefined ? [INCOMPLETE] : [])],
    ...(error === undefined ? {} : { error: { code: error.code, message: messageOf(error) } }),
  };
  context.events.end(record.id, report);
}
