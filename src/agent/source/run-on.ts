/**
 * How a container runs on here whose migration was interrupted before the commit by the end of its agent.
 */
import { existsSync } from "node:fs";
import path from "node:path";
import { DmigrateError } from "../../core/errors.ts";
import type { ContainerId, MigrationId } from "../../core/ids.ts";
import { freezerOf, type Freezer } from "../../criu/freezer.ts";
import { dumpEnded } from "../../criu/lazy-dump.ts";
import { thawAfterDump } from "../../criu/thaw.ts";
import type { Engine } from "../../docker/engine.ts";
import { endNeverRestart, restartIfEnded, type LackedPolicy } from "../../docker/lifecycle.ts";
import { NetworkNamespace } from "../../kernel/netns.ts";
import { Quarantine } from "../../network/quarantine.ts";
import type { AgentConfig } from "../config.ts";
import type { Journal, MigrationRecord } from "../journal.ts";
import { migrationFolder } from "../migration-folder.ts";
import { readDetail, type SourceDetail } from "./detail.ts";
import { reopen } from "./shut.ts";

/** Who decides about a migration: whoever has the journal open, so that nobody else does meanwhile. */
interface Decider {
  readonly config: AgentConfig;
  readonly journal: Journal;
}

/**
 * Has the tasks of a container run on here; what needs its engine comes afterwards (`returnPolicy`). Once that has been done for a
 * migration it does nothing: by then somebody else may have stopped or paused them. They run when this returns; when it throws
 * DUMP_FAILED they may still be frozen.
 * @param record in the state `running`, or `rolled-back` by the word of its target
 */
export async function letRunOn({ config, journal }: Decider, { id, containerId, detail }: MigrationRecord): Promise<void> {
  const known = readDetail(detail);
  const { frozen, heldPid, ranOn } = known;
  if (ranOn !== undefined) return;
  const folder = migrationFolder(config, id);
  const freezer = await ownFreezer(frozen?.initPid ?? heldPid, containerId);
  let downtimeMs = 0;
  if (frozen !== undefined) reopen(frozen.hostsFile);
  if (freezer !== undefined && frozen !== undefined) downtimeMs = await thawDumped(freezer, folder, frozen);
  else if (freezer !== undefined && existsSync(heldMarker(folder))) await freezer.thaw();
  noteDone(journal, id, { ...known, ranOn: { atMs: Date.now(), downtimeMs } });
}

/** What has been done is not done again; it may be if there is no space to note it. */
function noteDone(journal: Journal, id: MigrationId, detail: SourceDetail): void {
  try {
    journal.note(id, detail);
  } catch (error) {
    if (DmigrateError.from(error).code !== "NO_SPACE") throw error;
  }
}

/**
 * Gives a container that runs on its restart policy back, once; with `restartIfEnded` that makes up for what happened while it lacked it.
 * Throws DOCKER.
 * @param record as the journal has it now
 * @returns since when it lacked it; undefined if it has it
 */
export async function returnPolicy(
  { journal }: Pick<Decider, "journal">,
  engine: Engine,
  { id, containerId, detail }: MigrationRecord,
): Promise<LackedPolicy | undefined> {
  const known = readDetail(detail);
  const { frozen, hasPolicyBack } = known;
  if (frozen === undefined || hasPolicyBack) return undefined;
  const { sinceMs } = frozen;
  await endNeverRestart(engine, containerId, frozen.restartPolicy);
  noteDone(journal, id, { ...known, hasPolicyBack: true });
  return { sinceMs, hasEngineEnded: await engine.hasBegunSince(sinceMs) };
}

/**
 * Makes up for what happened to the container while it lacked its restart policy. Throws DOCKER.
 * @returns what became of one that has not run on; undefined if it has
 */
export async function restartAsItWould(
  engine: Engine,
  { containerId, detail }: MigrationRecord,
  lacked: LackedPolicy,
): Promise<string | undefined> {
  const { frozen } = readDetail(detail);
  return frozen === undefined ? undefined : await restartIfEnded(engine, containerId, frozen.restartPolicy, lacked);
}

/** Exists as long as it is a migration that has a container stand still for a moment, and not `docker pause`. */
export function heldMarker(folder: string): string {
  return path.join(folder, "held");
}

/** The freezer of the container whose init has that process id, unless the machine was restarted and it is another process's now. */
export async function ownFreezer(initPid: number | undefined, containerId: ContainerId): Promise<Freezer | undefined> {
  if (initPid === undefined || !existsSync(`/proc/${initPid}`)) return undefined;
  const freezer = await freezerOf(initPid).catch(() => undefined); // no container's
  return freezer?.folder.includes(containerId) === true ? freezer : undefined;
}

/** @returns for how long it had been frozen, in milliseconds */
async function thawDumped(freezer: Freezer, folder: string, frozen: NonNullable<SourceDetail["frozen"]>): Promise<number> {
  const { initPid, pagePort, sinceMs } = frozen;
  await dumpEnded({ folder, initPid, port: pagePort });
  const wasFrozen = await freezer.isFrozen();
  using namespace = NetworkNamespace.open(`/proc/${initPid}/ns/net`);
  using quarantine = new Quarantine(namespace);
  quarantine.lift();
  await thawAfterDump(freezer);
  return wasFrozen ? Date.now() - sinceMs : 0;
}
