/**
 * What is left to do at the source from the commit on: the target's container gets the pages that it lacks, as long as the frozen tasks
 * stand here, and then these are removed. The session that committed does this, or the agent after that one (take-up.ts).
 */
import { DmigrateError, messageOf } from "../../core/errors.ts";
import type { ContainerId, HostName, MigrationId } from "../../core/ids.ts";
import type { PageCounts, PageVerification } from "../../core/migration.ts";
import { readKernelAreas } from "../../criu/restartable-sequences.ts";
import type { Engine } from "../../docker/engine.ts";
import { despiteRestart } from "../../docker/restart.ts";
import { PageComparison } from "../../memory/page-digests.ts";
import type { PageRange } from "../../memory/page-ranges.ts";
import { pagesOf } from "../../memory/page-sender.ts";
import type { TrunkStream } from "../../transfer/stream.ts";
import { causesOf } from "../causes.ts";
import type { ChannelKind } from "../channels.ts";
import type { AgentContext } from "../context.ts";
import type { Finished, PeerCalls } from "../migrations.ts";
import { PAGES_LOST_LIMIT_MS } from "../page-channels.ts";
import type { PageServing } from "./page-serving.ts";
import { persist } from "./persist.ts";
import { memoryAltered, memoryLost, removeShell, type Shell } from "./shell.ts";

/** How long to ask a target that has all pages how it ended the migration. */
const FINISH_LIMIT_MS = 30_000;
/** How long to wait for a target whose host says that it has no agent: the next one knows nothing of what this one had taken. */
const AGENT_GONE_LIMIT_MS = 3_000;

/** A migration whose container is the target's. */
export interface HandedOver {
  readonly context: AgentContext;
  readonly id: MigrationId;
  /** The container's name, and its id here. */
  readonly container: string;
  readonly containerId: ContainerId;
  readonly target: HostName;
  readonly calls: PeerCalls;
  /** Of the container that is frozen here. */
  readonly initPid: number;
  /** What the lazy pages cross by. */
  readonly serving: PageServing;
  readonly warn: (text: string) => void;
}

/** What a comparison needs. */
export interface Compared {
  /** The folder of CRIU's images. */
  readonly images: string;
  /** The lazy pages of each process, by its id inside the container, in ascending order. */
  readonly lazyRanges: () => ReadonlyMap<number, readonly PageRange[]>;
  /** Process ids of the frozen tasks on this host by those inside the container. */
  readonly tasks: ReadonlyMap<number, number>;
}

/** Until disposed of, pages cross by another trunk whenever one breaks: one that is expected. */
export function keepServing({ context, id, target, serving }: HandedOver, tellRenewed: () => void): Disposable {
  const over = new AbortController();
  const dialled = (more: number, signal: AbortSignal): Promise<number> => context.link.dialled(id, more, signal);
  const channel = async (kind: ChannelKind): Promise<TrunkStream> => (await context.link.open(target, id, kind, over.signal)).raw();
  serving
    .goOn(dialled, channel, tellRenewed, over.signal)
    .catch((error: unknown) => context.log.warn({ err: error, migration: id }, "pages do not cross any more"));
  return { [Symbol.dispose]: () => over.abort() };
}

/** Returns when the target has every page; throws MEMORY_LOST when they have no way to it any more. */
export async function pagesArrived({ id, container, target, calls, initPid, serving, warn }: HandedOver): Promise<PageCounts> {
  const tellLost = (error: unknown): void =>
    warn(
      `${messageOf(error)}: ${container} runs on ${target}, but what touches memory that has not crossed waits until ${target} answers ` +
        "again",
    );
  const isHopeless = (error: unknown): boolean =>
    serving.lostForMs > (saysNobodyListens(error) ? AGENT_GONE_LIMIT_MS : PAGES_LOST_LIMIT_MS);
  try {
    return await persist(() => calls.awaitPages(id), isHopeless, tellLost);
  } catch (error) {
    throw memoryLost(container, target, initPid, error);
  }
}

/**
 * Compares what the tasks on the target were given with what is frozen here.
 * @returns what came of it, unless that could not be found out, and MEMORY_ALTERED if it is not the same
 */
export async function verifyPages(
  { id, container, target, calls, warn }: HandedOver,
  { images, lazyRanges, tasks }: Compared,
): Promise<{ readonly verification?: PageVerification; readonly altered?: DmigrateError }> {
  const compare = async (): Promise<{ readonly comparison: PageComparison; readonly verification: PageVerification }> => {
    const comparison = new PageComparison(lazyRanges(), readKernelAreas(images), pagesOf(tasks));
    for await (const run of calls.digests(id)) comparison.take(run);
    return { comparison, verification: comparison.end() };
  };
  try {
    const { comparison, verification } = await persist(compare, limit(FINISH_LIMIT_MS));
    return verification.different === 0
      ? { verification }
      : { verification, altered: memoryAltered(container, target, comparison.different) };
  } catch (error) {
    warn(`Whether all pages on ${target} are right could not be found out (${messageOf(error)})`);
    return {};
  }
}

/** Asks the target, which has all pages, how it ended the migration. If it does not say that is a warning. */
export async function askFinished({ id, container, target, calls, warn }: HandedOver): Promise<Finished | undefined> {
  try {
    const finished = await persist(() => calls.finish(id), limit(FINISH_LIMIT_MS));
    finished.warnings.forEach(warn);
    return finished;
  } catch (error) {
    warn(`${target} has all of ${container}, but did not say how its start there ended (${messageOf(error)})`);
    return undefined;
  }
}

/** Removes what is left here. If it can't be removed that is a warning. */
export async function removeLeft(
  { container, containerId, warn }: Pick<HandedOver, "container" | "containerId" | "warn">,
  connect: () => Promise<Engine>,
  shell: Shell,
): Promise<void> {
  try {
    await despiteRestart(async () => await removeShell(await connect(), containerId, shell));
  } catch (error) {
    warn(`What is left here could not be removed (${messageOf(error)}); remove it: \`docker rm --force ${container}\``);
  }
}

function limit(limitMs: number): () => boolean {
  const deadline = performance.now() + limitMs;
  return () => performance.now() > deadline;
}

/** Whether a call failed because a host is there, and no agent on it. */
function saysNobodyListens(error: unknown): boolean {
  return causesOf(error).some((cause) => "code" in cause && cause.code === "ECONNREFUSED");
}
