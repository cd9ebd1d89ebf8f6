/**
 * How a container runs on here whose migration was interrupted before the commit by the end of its agent.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError } from "../../core/errors.ts";
import type { ContainerId } from "../../core/ids.ts";
import { freezerOf, type Freezer } from "../../criu/freezer.ts";
import { breakOff } from "../../criu/lazy-dump.ts";
import { thawAfterDump } from "../../criu/thaw.ts";
import { Engine } from "../../docker/engine.ts";
import { giveBackPolicy } from "../../docker/lifecycle.ts";
import { despiteRestart } from "../../docker/restart.ts";
import { unless } from "../../docker/transport.ts";
import { NetworkNamespace } from "../../kernel/netns.ts";
import { Quarantine } from "../../network/quarantine.ts";
import type { AgentConfig } from "../config.ts";
import type { MigrationRecord } from "../journal.ts";
import { migrationFolder } from "../migration-folder.ts";
import { readDetail, type SourceDetail } from "./detail.ts";

/** How long CRIU may take to let go of the tasks once its peer has left. */
const RELEASE_LIMIT_MS = 30_000;
const RELEASE_RETRY_MS = 20;

/**
 * Has a container run on as it did before its migration, under its own restart policy. To be called by whoever has the journal open, so
 * that nobody else decides about it meanwhile. Doing it again does nothing. The container runs here when this returns; when it throws
 * DUMP_FAILED it may still be frozen, and after any other error it runs, perhaps without its restart policy.
 * @param record in the state `running`, or `rolled-back` by the word of its target
 * @returns for how long it had been frozen, in milliseconds
 */
export async function letRunOn(config: AgentConfig, record: MigrationRecord): Promise<number> {
  const { frozen, heldPid, ranOn } = readDetail(record.detail);
  if (frozen === undefined) {
    if (heldPid !== undefined) await thawMoment(config, heldPid, record.containerId);
    return 0;
  }
  const freezer = await ownFreezer(frozen.initPid, record.containerId);
  const wasFrozenMs = freezer === undefined ? 0 : await thawDumped(freezer, migrationFolder(config, record.id), frozen);
  const engine = await despiteRestart(() => Engine.connect(config.dockerSocket));
  const lacked = { sinceMs: record.beganAtMs, hasEngineEnded: false }; // as far as anybody knows
  await giveBackPolicy(engine, record.containerId, frozen.restartPolicy, () => lacked).catch(unless(404));
  return ranOn?.downtimeMs ?? wasFrozenMs;
}

/** The freezer of the container whose init has that process id, unless the machine was restarted and it is another process's now. */
async function ownFreezer(initPid: number, containerId: ContainerId): Promise<Freezer | undefined> {
  if (!existsSync(`/proc/${initPid}`)) return undefined;
  const freezer = await freezerOf(initPid);
  return freezer.folder.includes(containerId) ? freezer : undefined;
}

/** The agent may have ended in a moment in which the container stood still. If it is Docker that has paused it, it stays so. */
async function thawMoment({ dockerSocket }: AgentConfig, initPid: number, containerId: ContainerId): Promise<void> {
  const freezer = await ownFreezer(initPid, containerId);
  if (freezer === undefined) return;
  const engine = await despiteRestart(() => Engine.connect(dockerSocket));
  if (!(await engine.inspectContainer(containerId)).State.Paused) await freezer.thaw();
}

/** @returns for how long it had been frozen, in milliseconds */
async function thawDumped(freezer: Freezer, folder: string, frozen: NonNullable<SourceDetail["frozen"]>): Promise<number> {
  const { initPid, pagePort, sinceMs } = frozen;
  await dumpEnded(folder, initPid, pagePort);
  const wasFrozen = await freezer.isFrozen();
  using namespace = NetworkNamespace.open(`/proc/${initPid}/ns/net`);
  using quarantine = new Quarantine(namespace);
  quarantine.lift();
  await thawAfterDump(freezer);
  return wasFrozen && sinceMs !== undefined ? Date.now() - sinceMs : 0;
}

/**
 * A dump that was begun goes on without its agent until it serves pages. CRIU must have let go of the tasks before they may run: until then
 * parts of them are its own.
 */
async function dumpEnded(folder: string, initPid: number, pagePort: number): Promise<void> {
  const deadline = performance.now() + RELEASE_LIMIT_MS;
  while (isDumping(folder) || !/^TracerPid:\s+0$/m.test(readFileSync(`/proc/${initPid}/status`, "utf8"))) {
    if (performance.now() > deadline)
      throw new DmigrateError("DUMP_FAILED", `CRIU still holds process ${initPid}; wait until it ended, then restart the agent`);
    await breakOff(pagePort);
    await sleep(RELEASE_RETRY_MS);
  }
}

/** Whether runc is there for a dump into that folder of a migration. */
function isDumping(folder: string): boolean {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return pids.some((pid) => {
    try {
      const argv = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
      return argv.includes("checkpoint") && argv.some((argument) => argument.startsWith(`${folder}/`));
    } catch {
      return false; // it ended meanwhile
    }
  });
}
