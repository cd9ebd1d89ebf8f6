/**
 * Takes up what an agent left that ended after the commit: the frozen tasks have the pages that the target lacks, so this agent serves them
 * as that one did. It never has them run.
 */
import { PassThrough } from "node:stream";
import path from "node:path";
import type { DmigrateError } from "../../core/errors.ts";
import { isWholeAtHandover, type ByteCounts, type PageCounts, type PageVerification, type Phase, type Step } from "../../core/migration.ts";
import { dumpEnded } from "../../criu/lazy-dump.ts";
import { Engine } from "../../docker/engine.ts";
import { despiteRestart } from "../../docker/restart.ts";
import type { AgentContext } from "../context.ts";
import type { MigrationRecord } from "../journal.ts";
import { migrationFolder } from "../migration-folder.ts";
import { composed } from "../timeline.ts";
import { readDetail, type SourceDetail } from "./detail.ts";
import { askFinished, keepServing, pagesArrived, removeLeft, verifyPages, type HandedOver } from "./handed-over.ts";
import { readWrittenLazyRanges } from "./lazy-ranges.ts";
import { PageServing } from "./page-serving.ts";
import { tellProgress } from "./progress.ts";
import { ownFreezer } from "./run-on.ts";
import { shut } from "./shut.ts";
import { passSignalsOn } from "./signals.ts";
import { findTasks } from "./standing.ts";

/** What of a report an agent can tell that took a migration up. */
export interface Known {
  readonly downtimeMs?: number;
  readonly steps?: readonly Step[];
  readonly bytes?: ByteCounts;
  readonly pages?: PageCounts;
  readonly verification?: PageVerification;
  readonly error?: DmigrateError;
}

/** A migration whose target may dial a trunk again. */
export interface Expected extends Disposable {
  /** Whether all of the frozen tasks stand, so that nothing is lost. They are served then, until this is disposed of. */
  readonly taken: Promise<TakenUp | undefined>;
}

/** When this returns the target may dial. */
export function expectAgain(context: AgentContext, record: MigrationRecord): Expected {
  const { committed, frozen } = readDetail(record.detail);
  const open = new DisposableStack();
  open.use(context.link.expect(record.peer, record.id, committed?.bytesPerSecond));
  const take = async (): Promise<TakenUp | undefined> => {
    const freezer = await ownFreezer(frozen?.initPid, record.containerId);
    const tasks = committed === undefined ? undefined : await findTasks(committed.standing, freezer);
    if (tasks !== undefined && frozen !== undefined) return open.use(new TakenUp(context, record, frozen, tasks));
    open.dispose(); // whoever dials is told that there is nothing
    return undefined;
  };
  return { taken: take(), [Symbol.dispose]: () => open.dispose() };
}

/** One whose frozen tasks stand. Disposing of it ends that they are read. */
export class TakenUp implements Disposable {
  readonly #context: AgentContext;
  readonly #record: MigrationRecord;
  readonly #detail: SourceDetail;
  readonly #frozen: NonNullable<SourceDetail["frozen"]>;
  readonly #tasks: ReadonlyMap<number, number>;
  readonly #handedOver: HandedOver;
  readonly #open = new DisposableStack();
  #phase: Phase;
  #isFinishing = false;

  constructor(
    context: AgentContext,
    record: MigrationRecord,
    frozen: NonNullable<SourceDetail["frozen"]>,
    tasks: ReadonlyMap<number, number>,
  ) {
    const { id, container, containerId, peer: target, phase = "handover" } = record;
    this.#context = context;
    this.#record = record;
    this.#detail = readDetail(record.detail);
    this.#frozen = frozen;
    this.#tasks = tasks;
    this.#phase = phase;
    const warn = (message: string): void => context.events.publish(id, { kind: "warning", atMs: this.#now(), message });
    const serving = new PageServing(tasks);
    this.#handedOver = {
      context,
      id,
      container,
      containerId,
      target,
      calls: context.peers.to(target),
      initPid: frozen.initPid,
      serving,
      warn,
    };
    this.#open.use(keepServing(this.#handedOver, () => warn(`Memory crosses again: ${target} gets the rest of it`)));
  }

  /** For how long the target has had no way to its pages. */
  get lostForMs(): number {
    return this.#handedOver.serving.lostForMs;
  }

  /**
   * The container is the target's: does what is left to do, as the session would have. Throws MEMORY_LOST.
   * @param before what had crossed
   */
  async finish(before: ByteCounts): Promise<Known> {
    const { config } = this.#context;
    const [frozen, handedOver] = [this.#frozen, this.#handedOver];
    const folder = migrationFolder(config, this.#record.id);
    const { mode, committed, report } = this.#detail;
    const bytes = (): ByteCounts => ({ ...before, memory: before.memory + handedOver.serving.sentBytes });
    this.#shut();
    handedOver.warn("The agent was restarted while memory crossed: the rest crosses from the tasks that stand frozen here");
    const released = dumpEnded({ folder, initPid: frozen.initPid, port: frozen.pagePort });
    released.catch(() => {}); // told below
    const connect = (): Promise<Engine> => Engine.connect(config.dockerSocket);
    this.#passSignals(() => despiteRestart(connect)).catch((error: unknown) => this.#log(error, "signals are not passed on"));
    using _progress = tellProgress(
      () => ({ atMs: this.#now(), phase: this.#phase, bytes: bytes(), expected: {} }),
      (event) => this.#context.events.publish(this.#record.id, event),
    );
    if (!isWholeAtHandover(mode)) this.#enter("post-copy");
    const pages = await this.#pagesArrived();
    this.#enter("finish");
    const compared = { images: path.join(folder, "images"), lazyRanges: () => readWrittenLazyRanges(folder), tasks: this.#tasks };
    const { verification, altered } = committed?.verify === true ? await verifyPages(handedOver, compared) : {};
    const finished = await askFinished(handedOver);
    await released.catch((error: unknown) => this.#log(error, "CRIU did not let go of what is left here"));
    this.#isFinishing = true;
    if (altered === undefined) await removeLeft(handedOver, connect, frozen);
    this.#tell("phase-ended", "finish");
    return {
      bytes: bytes(),
      ...(report === undefined
        ? {}
        : { downtimeMs: report.downtimeMs, steps: composed(report.steps, "restore", finished?.restoreSteps ?? [], "endMs") }),
      ...(pages === undefined ? {} : { pages }),
      ...(verification === undefined ? {} : { verification }),
      ...(altered === undefined ? {} : { error: altered }),
    };
  }

  /** The agent before may not have come to that. */
  #shut(): void {
    try {
      shut(this.#frozen.hostsFile);
    } catch (error) {
      this.#log(error, "what is left here could be started");
    }
  }

  /** Undefined if that has ended on the target so that it can't say how they came. */
  async #pagesArrived(): Promise<PageCounts | undefined> {
    const { calls, id } = this.#handedOver;
    try {
      return await pagesArrived(this.#handedOver);
    } catch (error) {
      if ((await calls.state(id).catch(() => undefined)) !== "completed") throw error;
      return undefined;
    }
  }

  /** As before: who stops what is left here means the container that runs. */
  async #passSignals(connect: () => Promise<Engine>): Promise<void> {
    const { containerId } = this.#handedOver;
    const engine = await connect();
    if (this.#isFinishing) return;
    const { Config } = await engine.inspectContainer(containerId);
    const over = new AbortController();
    const signals = new PassThrough({ objectMode: true });
    this.#open.defer(() => {
      over.abort();
      signals.end();
    });
    await engine.watchRequests(containerId, (news) => void (news.kind === "signal" && signals.write(news.signal)), over.signal);
    passSignalsOn(this.#handedOver, Config["StopSignal"], signals, () => !this.#isFinishing);
  }

  /** Goes on with the phase in which the agent before ended. */
  #enter(phase: Phase): void {
    if (phase === this.#phase) return;
    this.#tell("phase-ended", this.#phase);
    this.#tell("phase-began", phase);
    this.#phase = phase;
  }

  #tell(kind: "phase-began" | "phase-ended", phase: Phase): void {
    this.#context.events.publish(this.#record.id, { kind, atMs: this.#now(), phase });
  }

  /** Milliseconds since the migration began. */
  #now(): number {
    return Date.now() - this.#record.beganAtMs;
  }

  #log(error: unknown, what: string): void {
    this.#context.log.warn({ err: error, migration: this.#record.id }, what);
  }

  [Symbol.dispose](): void {
    this.#open.dispose();
  }
}
