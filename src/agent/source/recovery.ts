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
import { readDetail, type SourceDetail } from "./detail.ts";
import { memoryLost, removeShell } from "./shell.ts";

/** How long CRIU may take to let go of the tasks once its peer has left. */
const RELEASE_LIMIT_MS = 30_000;
/** How long a target may take to complete, or to fail, once its source has gone. */
const COMPLETION_LIMIT_MS = 10_000;
const COMPLETION_RETRY_MS = 200;

/** Brings every unfinished migration of an earlier agent to its end. A failure of one does not keep the others from it. */
export async function recoverMigrations(context: AgentContext): Promise<void> {
  for (const record of context.journal.unfinished("source")) {
    try {
      await recover(context, record);
    } catch (error) {
      context.log.error({ err: error, migration: record.id }, "could not recover a migration");
      end(context, record, "failed", DmigrateError.from(error));
    }
    await removeMigrationFolder(context.config, record.id);
  }
}

async function recover(context: AgentContext, record: MigrationRecord): Promise<void> {
  if (record.state === "running") return await letRunOn(context, record);
  const state = await stateOnTarget(context, record);
  switch (state) {
    case "rolled-back":
    case undefined:
      return await letRunOn(context, record);
    case "completed":
      return await letGo(context, record);
    case "owner":
    case "failed":
      return end(context, record, "failed", memoryLost(record.container, record.peer, "the agent of its source ended"));
    case "running":
    case "prepared":
    case "committed":
    case "unreachable":
      return end(context, record, "failed", inDoubt(record, state));
  }
}

/** A target that has the container may be just about to find out whether it has all of its memory. */
async function stateOnTarget({ peers }: AgentContext, { id, peer }: MigrationRecord): Promise<JournalState | "unreachable" | undefined> {
  const deadline = performance.now() + COMPLETION_LIMIT_MS;
  for (;;) {
    const state = await peers
      .to(peer)
      .state(id)
      .catch((): "unreachable" => "unreachable");
    if (state !== "owner" || performance.now() > deadline) return state;
    await sleep(COMPLETION_RETRY_MS);
  }
}

function inDoubt({ container, peer }: MigrationRecord, state: JournalState | "unreachable"): DmigrateError {
  const text =
    `This agent ended after ${container} was handed over to ${peer}, whose word on it is "${state}"; it stays frozen here with all its ` +
    `memory: remove it with \`docker rm --force ${container}\` if it runs on ${peer}; if it does not and will not, ` +
    `\`docker restart ${container}\` starts it here anew`;
  return new DmigrateError("IN_DOUBT", text);
}

async function letRunOn(context: AgentContext, record: MigrationRecord): Promise<void> {
  const { frozen } = readDetail(record.detail);
  if (frozen !== undefined) {
    if (existsSync(`/proc/${frozen.initPid}`)) await release(frozen);
    const engine = await despiteRestart(() => Engine.connect(context.config.dockerSocket));
    await giveBackPolicy(engine, record.containerId, frozen.restartPolicy, record.beganAtMs).catch(unless(404));
  }
  await context.peers
    .to(record.peer)
    .abort(record.id)
    .catch((error: unknown) => context.log.warn({ err: error, migration: record.id }, "the target could not be told to clean up"));
  end(
    context,
    record,
    "rolled-back",
    new DmigrateError("CANCELLED", `The agent ended during the migration, but ${record.container} keeps running here; migrate it again`),
  );
}

/** The target has all of the container. */
async function letGo(context: AgentContext, record: MigrationRecord): Promise<void> {
  const { frozen } = readDetail(record.detail);
  if (frozen !== undefined) {
    await breakOff(frozen.pagePort);
    await removeShell(await Engine.connect(context.config.dockerSocket), record.containerId, frozen.initPid, frozen.keepSource);
  }
  end(context, record, "completed");
}

async function release(frozen: NonNullable<SourceDetail["frozen"]>): Promise<void> {
  await breakOff(frozen.pagePort);
  await untraced(frozen.initPid);
  using namespace = NetworkNamespace.open(`/proc/${frozen.initPid}/ns/net`);
  using quarantine = new Quarantine(namespace);
  quarantine.lift();
  await thawAfterDump(await freezerOf(frozen.initPid));
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
function end(context: AgentContext, record: MigrationRecord, outcome: Outcome, error?: DmigrateError): void {
  const report: Report = {
    id: record.id,
    container: record.container,
    containerId: record.containerId,
    source: context.self(),
    target: record.peer,
    mode: "post-copy",
    outcome,
    totalMs: Date.now() - record.beganAtMs,
    downtimeMs: 0,
    phases: [],
    steps: [],
    bytes: { memory: 0, files: 0, layers: 0, metadata: 0, total: 0 },
    pages: { total: 0, copiedAhead: 0, demanded: 0, pushed: 0, zero: 0 },
    warnings: ["The agent was restarted during this migration: times and counts were lost"],
    ...(error === undefined ? {} : { error: { code: error.code, message: messageOf(error) } }),
  };
  context.events.publish(record.id, { kind: "ended", atMs: report.totalMs, report });
}
