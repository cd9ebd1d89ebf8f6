/**
 * Recovery: what becomes of a migration whose source agent ended in the middle of it.
 *
 * Before the commit the source owns the container, and it runs on here. After it the target owns it, and only the target's
 * written word that it rolled back lets it run here again.
 */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError, messageOf } from "../../core/errors.ts";
import type { ContainerId } from "../../core/ids.ts";
import type { JournalState, Outcome, Report } from "../../core/migration.ts";
import { freezerOf } from "../../criu/freezer.ts";
import { thawAfterDump } from "../../criu/thaw.ts";
import { breakOff } from "../../criu/lazy-dump.ts";
import { Engine } from "../../docker/engine.ts";
import { giveBackPolicy } from "../../docker/lifecycle.ts";
import { despiteRestart } from "../../docker/restart.ts";
import { unless } from "../../docker/transport.ts";
import { NetworkNamespace } from "../../kernel/netns.ts";
import { Quarantine } from "../../network/quarantine.ts";
import type { AgentContext } from "../context.ts";
import type { MigrationRecord } from "../journal.ts";
import { removeMigrationFolder } from "../migration-folder.ts";
import type { Doubts } from "./doubts.ts";
import { readDetail, type SourceDetail } from "./detail.ts";
import { memoryLost, removeShell } from "./shell.ts";

/** How long CRIU may take to let go of the tasks once its peer has left. */
const RELEASE_LIMIT_MS = 30_000;
/** How long a target may take to complete, or to fail, once its source has gone. */
const COMPLETION_LIMIT_MS = 10_000;
const COMPLETION_RETRY_MS = 200;

/**
 * Brings every unfinished migration of an earlier agent to its end. A failure of one does not keep the others from it. Those that the
 * target must be asked about go on behind this.
 */
export async function recoverMigrations(context: AgentContext, doubts: Doubts): Promise<void> {
  for (const record of context.journal.unfinished("source")) {
    const recovered = recover(context, record, record.state === "committed" ? settle(context, doubts, record) : letRunOn(context, record));
    if (record.state !== "committed") await recovered;
  }
}

async function recover(context: AgentContext, record: MigrationRecord, work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    context.log.error({ err: error, migration: record.id }, "could not recover a migration");
    end(context, record, "failed", DmigrateError.from(error));
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
      return await letRunOn(context, record);
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
  end(context, record, "failed", memoryLost(record.container, record.peer, frozen?.initPid ?? 0, "the agent of its source ended"));
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

async function letRunOn(context: AgentContext, record: MigrationRecord): Promise<void> {
  const { frozen, heldPid } = readDetail(record.detail);
  let downtimeMs = 0;
  if (frozen === undefined && heldPid !== undefined) await letGoOf(context, heldPid, record.containerId);
  if (frozen !== undefined) {
    if (existsSync(`/proc/${frozen.initPid}`)) downtimeMs = await release(frozen, record.containerId);
    const engine = await despiteRestart(() => Engine.connect(context.config.dockerSocket));
    const lacked = { sinceMs: record.beganAtMs, hasEngineEnded: false }; // as far as anybody knows
    await giveBackPolicy(engine, record.containerId, frozen.restartPolicy, () => lacked).catch(unless(404));
  }
  await context.peers
    .to(record.peer)
    .abort(record.id)
    .catch((error: unknown) => context.log.warn({ err: error, migration: record.id }, "the target could not be told to clean up"));
  end(
    context,
    record,
    "rolled-back",
    new DmigrateError("AGENT", `The agent ended during the migration, but ${record.container} keeps running here; migrate it again`),
    downtimeMs,
  );
}

/** The agent may have ended in a moment in which the container stood still. If it is Docker that has paused it, it stays so. */
async function letGoOf({ config }: AgentContext, pid: number, containerId: ContainerId): Promise<void> {
  if (!existsSync(`/proc/${pid}`)) return;
  const freezer = await freezerOf(pid);
  if (!freezer.folder.includes(containerId)) return; // the machine was restarted: it is another process's id now
  const engine = await despiteRestart(() => Engine.connect(config.dockerSocket));
  if (!(await engine.inspectContainer(containerId)).State.Paused) await freezer.thaw();
}

/** The target has all of the container. */
async function letGo(context: AgentContext, record: MigrationRecord): Promise<void> {
  const { frozen } = readDetail(record.detail);
  if (frozen !== undefined) {
    await breakOff(frozen.pagePort);
    const engine = await despiteRestart(() => Engine.connect(context.config.dockerSocket));
    await removeShell(engine, record.containerId, frozen.initPid, frozen.keepSource);
  }
  end(context, record, "completed");
}

/** Returns for how long the container had been frozen, in milliseconds. */
async function release({ pagePort, initPid, sinceMs }: NonNullable<SourceDetail["frozen"]>, containerId: ContainerId): Promise<number> {
  const freezer = await freezerOf(initPid);
  if (!freezer.folder.includes(containerId)) return 0; // the machine was restarted: it is another process's id now
  const wasFrozen = await freezer.isFrozen();
  await breakOff(pagePort);
  await untraced(initPid);
  using namespace = NetworkNamespace.open(`/proc/${initPid}/ns/net`);
  using quarantine = new Quarantine(namespace);
  quarantine.lift();
  await thawAfterDump(freezer);
  return wasFrozen && sinceMs !== undefined ? Date.now() - sinceMs : 0;
}

/** CRIU must have let go of the tasks before they may run: until then parts of them are its own. */
async function untraced(pid: number): Promise<void> {
  const deadline = performance.now() + RELEASE_LIMIT_MS;
  while (!/^TracerPid:\s+0$/m.test(await readFile(`/proc/${pid}/status`, "utf8"))) {
    if (performance.now() > deadline)
      throw new DmigrateError("DUMP_FAILED", `CRIU still holds process ${pid}; wait until it ended, then restart the agent`);
    await sleep(20);
  }
}

/** Ends a migration of which this agent saw only what the journal has. */
function end(context: AgentContext, record: MigrationRecord, outcome: Outcome, error?: DmigrateError, downtimeMs = 0): void {
  const report: Report = {
    id: record.id,
    container: record.container,
    containerId: record.containerId,
    source: context.self(),
    target: record.peer,
    mode: "post-copy",
    outcome,
    totalMs: Date.now() - record.beganAtMs,
    downtimeMs,
    phases: [],
    steps: [],
    bytes: { memory: 0, files: 0, layers: 0, metadata: 0, total: 0 },
    pages: { total: 0, copiedAhead: 0, demanded: 0, pushed: 0, zero: 0 },
    warnings: ["The agent was restarted during this migration: its phases and counts were lost"],
    ...(error === undefined ? {} : { error: { code: error.code, message: messageOf(error) } }),
  };
  context.events.publish(record.id, { kind: "ended", atMs: report.totalMs, report });
}
