/**
 * What a prediction needs to know of one migration, measured while the container runs: how much memory it has, how fast it writes, and how
 * fast the link is. Takes a tenth of a second, or what a few hundred kilobytes take on the link.
 */
import { randomBytes } from "node:crypto";
import { totalBytes } from "../../core/migration.ts";
import type { Examination } from "../../core/preflight.ts";
import { habitsOf, type Measured } from "../../core/prediction.ts";
import { FileDecoys } from "../../criu/file-decoy.ts";
import { sharedObjectsOf } from "../../kernel/shared-objects.ts";
import { anonymousBytesOf, pidsIn, runningTasksIn } from "../../kernel/tasks.ts";
import { hasUnseenWriters } from "../../kernel/unseen-writers.ts";
import { findNeverLazy } from "../../memory/never-lazy.ts";
import { PAGE_BYTES } from "../../memory/page-protocol.ts";
import { pageCountOf } from "../../memory/page-ranges.ts";
import type { Trackers } from "../../memory/tracking/trackers.ts";
import { RecentWrites } from "../../memory/tracking/recent-writes.ts";
import { CHANNELS } from "../channels.ts";
import { sendStream } from "../link.ts";
import type { PageSpan } from "../../wire/trunk-frames.ts";
import type { Timeline } from "../timeline.ts";
import type { SourceScope } from "./scope.ts";

const PROBES = 3;
const PROBE_MS = 20;
const PROBE_PAGES = 64;
const NOISE = randomBytes(PROBE_PAGES * PAGE_BYTES);

/**
 * @param cgroup of the container
 * @param known by the preflight
 */
export async function measure(scope: SourceScope, cgroup: string, trackers: Trackers, known: Examination): Promise<Measured> {
  const { context, timeline } = scope;
  const pids = pidsIn(cgroup);
  using writes = await RecentWrites.begin(pids, trackers.note);
  const beganAtMs = timeline.now();
  const bytesPerSecond = await linkRate(scope);
  const memories = [...runningTasksIn(cgroup)].map(([process, pid]) => memoryOf(process, pid, writes));
  const seconds = (timeline.now() - beganAtMs) / 1000;
  const sum = (of: keyof TaskMemory): number => memories.reduce((so, memory) => so + memory[of], 0);
  return {
    memoryBytes: sum("bytes"),
    copyableBytes: known.keepsAhead ? sum("copyableBytes") : 0,
    frozenBytes: findNeverLazy(pids, scope.subject.initPid, sharedAhead(pids)).byteCount,
    writtenBytesPerSecond: sum("writtenBytes") / seconds,
    bytesPerSecond,
    habits: habitsOf(context.journal.list().flatMap(({ role, report }) => (role === "source" && report !== undefined ? [report] : []))),
    elapsedMs: timeline.now() + (known.copyBytes / bytesPerSecond) * 1000,
    sentBytes: totalBytes(scope.bytes) + known.copyBytes,
  };
}

/** Inodes of the shared memory that CRIU is spared. */
function sharedAhead(pids: readonly number[]): { has(inode: bigint): boolean } {
  return FileDecoys.isPossible ? sharedObjectsOf(pids) : new Set();
}

/** The private memory of a task, how much of it can be copied ahead, and was written. */
interface TaskMemory {
  readonly bytes: number;
  readonly copyableBytes: number;
  readonly writtenBytes: number;
}

function memoryOf(process: number, pid: number, writes: RecentWrites): TaskMemory {
  const bytes = anonymousBytesOf(pid);
  try {
    const written = writes.told(new Map([[process, pid]])).get(process);
    const copyableBytes = written === undefined || hasUnseenWriters(pid) ? 0 : bytes;
    return { bytes, copyableBytes, writtenBytes: pageCountOf(written ?? []) * PAGE_BYTES };
  } catch {
    return { bytes, copyableBytes: bytes, writtenBytes: 0 }; // it has ended, or closed a descriptor just now
  }
}

/** What crosses in a second, at the best of a few probes: a busy machine makes some slow, and hardly anything makes one too fast. */
async function linkRate(scope: SourceScope): Promise<number> {
  let best = 0;
  for (let count = 0; count < PROBES; count++) best = Math.max(best, await rateOfProbe(scope));
  return best;
}

/** From the first byte that leaves to the last one that has arrived. */
async function rateOfProbe(scope: SourceScope): Promise<number> {
  const channel = await scope.channel(CHANNELS.probe, "memory");
  const beganAtMs = scope.timeline.now();
  await sendStream(channel, () => channel.sendPages(probe(beganAtMs + PROBE_MS, scope.timeline), (_span, into) => fill(into)));
  await channel.close();
  return (channel.counts.sent / (scope.timeline.now() - beganAtMs)) * 1000;
}

function* probe(untilMs: number, timeline: Timeline): Generator<PageSpan, void> {
  do yield { process: 0, page: 0, pageCount: PROBE_PAGES };
  while (timeline.now() < untilMs);
}

/** Pages without a meaning, of which neither a search for zeros nor compression could make less. */
function fill(into: Uint8Array): number {
  into.set(NOISE.subarray(0, into.length));
  return into.length / PAGE_BYTES;
}
