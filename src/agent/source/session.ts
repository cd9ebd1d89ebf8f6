/**
 * One migration as its source drives it: the top function reads like the protocol, one function per phase.
 *
 * Until the commit the source owns the container: whatever fails, it runs on here as if nothing had happened, and the target is
 * clean. From the commit on it never runs here again by itself.
 */
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError, messageOf } from "../../core/errors.ts";
import type { ExpectedBytes } from "../../core/progress.ts";
import {
  copiesAhead,
  isWholeAtHandover,
  NO_PAGES,
  totalBytes,
  type Outcome,
  type PageCounts,
  type PageVerification,
  type Report,
  type Step,
} from "../../core/migration.ts";
import { downtimeTooLong, predict, type Measured, type Prediction } from "../../core/prediction.ts";
import type { Examination } from "../../core/preflight.ts";
import { writeDescription } from "../../docker/description.ts";
import { freezerOf, type Freezer } from "../../criu/freezer.ts";
import { exportImage } from "../../docker/images.ts";
import { NetworkNamespace } from "../../kernel/netns.ts";
import { PAGE_BYTES } from "../../memory/page-protocol.ts";
import { choose, Trackers, trackingFeatures } from "../../memory/tracking/trackers.ts";
import type { HeldNetwork } from "../../network/hold.ts";
import { interfacesOf, namesByAddress } from "../../network/interfaces.ts";
import { CHANNELS } from "../channels.ts";
import { sendAll } from "../link.ts";
import { migrationFolder, removeMigrationFolder } from "../migration-folder.ts";
import type { Reservation } from "../migrations.ts";
import { ContentAhead } from "./content-ahead.ts";
import { noteCommitted, noteReport } from "./detail.ts";
import type { Doubts } from "./doubts.ts";
import { SourceFiles } from "./files.ts";
import { Freeze, type Copied, type Frozen } from "./freeze.ts";
import { Guard } from "./guard.ts";
import { askFinished, keepServing, pagesArrived, removeLeft, verifyPages, type HandedOver } from "./handed-over.ts";
import { writeLazyRanges } from "./lazy-ranges.ts";
import { measure } from "./measure.ts";
import { MemoryAhead, tasksToHold } from "./memory-ahead.ts";
import { paced } from "./pace.ts";
import type { PageServing } from "./page-serving.ts";
import { persist } from "./persist.ts";
import { tellProgress } from "./progress.ts";
import { refuseBlockers, runPreflight } from "./preflight.ts";
import type { SourceScope } from "./scope.ts";
import { SharedAhead } from "./shared-ahead.ts";
import { reopen, shut } from "./shut.ts";
import { passSignalsOn } from "./signals.ts";
import { memoryLost } from "./shell.ts";
import { noteTasks } from "./standing.ts";
import { Vigil } from "./vigil.ts";

/** How long to wait for a target that cleans up; it goes on by itself. */
const ABORT_LIMIT_MS = 90_000;
/** How long to wait for what an agent says of its end. */
const LAST_WORD_LIMIT_MS = 1_000;

/** A migration away from this host. */
export class SourceSession {
  readonly #scope: SourceScope;
  readonly #doubts: Doubts;
  /** Aborted by the loss of the target, with what its agent said of its end. */
  #lostTarget: AbortSignal | undefined;
  #vigil: Vigil | undefined;
  #prediction: Prediction | undefined;
  #serving: PageServing | undefined;
  #memory: MemoryAhead | undefined;
  #freezing: Freeze | undefined;
  #isFinishing = false;
  #wasChangedLate = false;
  #pages: PageCounts = NO_PAGES;
  #verification: PageVerification | undefined;
  #expected: ExpectedBytes = {};
  /** What its root file system has, about, for the target. */
  #diskBytes = 0;

  constructor(scope: SourceScope, doubts: Doubts) {
    this.#scope = scope;
    this.#doubts = doubts;
  }

  /**
   * Migrates. Returns a report, whatever happened; its outcome says who runs the container: "completed" the target, "rolled-back"
   * the source, "failed" nobody but as its error says.
   */
  async run(): Promise<Report> {
    const { timeline } = this.#scope;
    using _progress = tellProgress(
      () => ({ atMs: timeline.now(), phase: timeline.current, bytes: this.#scope.bytes, expected: this.#expected }),
      (event) => this.#scope.tell(event),
    );
    const report = await this.#migrate();
    if (report.outcome === "failed") await this.#freezing?.endDump(); // the frozen tasks stay
    await this.#scope.open.disposeAsync().catch((error: unknown) => this.#scope.logWarning(error, "closing failed"));
    return report;
  }

  async #migrate(): Promise<Report> {
    const { timeline } = this.#scope;
    try {
      const examination = await timeline.phase("preflight", () => this.#preflight());
      const reservation = await timeline.phase("reserve", () => this.#reserve());
      const copied = await timeline.phase("copy", () => this.#copy(reservation, examination));
      const freezing = await timeline.phase("stage", () => this.#stage(copied));
      const frozen = await timeline.phase("freeze", () => this.#freeze(freezing));
      await timeline.phase("handover", () => this.#handOver(frozen));
      const { StopSignal: stopSignal } = this.#scope.subject.description.config;
      passSignalsOn(this.#handedOver(frozen), stopSignal, freezing.signals, () => !this.#isFinishing);
      freezing.handedOver((action) => this.#changedLate(action));
      // While CRIU holds the tasks nobody else can end them without leaving something of them.
      freezing.endDump().catch((error: unknown) => this.#scope.logWarning(error, "CRIU did not let go of what is left here"));
      try {
        if (!isWholeAtHandover(this.#scope.mode)) await timeline.phase("post-copy", () => this.#postCopy(frozen));
        await timeline.phase("finish", () => this.#finish(frozen));
        return this.#report("completed");
      } catch (error) {
        return this.#report("failed", error);
      }
    } catch (error) {
      return error instanceof NotOurs ? this.#report("failed", error.error) : await this.#rollBack(error);
    }
  }

  /** Examines both hosts and the container; a blocker ends the migration before anything was changed. */
  async #preflight(): Promise<Examination> {
    const { context, engine, options, subject } = this.#scope;
    const { description, request } = subject;
    const examination = await runPreflight(context, engine, description, request, options);
    const { findings, copyBytes } = examination;
    refuseBlockers(description.name, request.target, findings);
    this.#scope.warn(...findings.map(({ message }) => message));
    this.#diskBytes = copyBytes;
    this.#expected = { copy: copyBytes };
    return examination;
  }

  /** Asks the target to make room. From here on whatever the target makes is undone on a rollback. */
  async #reserve(): Promise<Reservation> {
    const scope = this.#scope;
    const { id, description, request: wanted } = scope.subject;
    const presence = scope.open.use(await scope.target.attend(undefined, scope.options));
    this.#lostTarget = presence.signal;
    this.#vigil = scope.open.use(new Vigil({ id, container: description.name, host: scope.subject.request.target, calls: scope.target }));
    scope.cancelled = AbortSignal.any([scope.cancelled, presence.signal, this.#vigil.signal]);
    scope.undo.defer(() => this.#abortTarget());
    scope.open.use(scope.context.link.expect(wanted.target, id, wanted.bytesPerSecond, () => scope.pace.plan));
    const request = { migration: id, source: scope.context.self(), description: writeDescription(description), verify: wanted.verify };
    return await scope.target.reserve(request, scope.options);
  }

  /** Copies while the container runs: its root file system and its memory, beside each other. */
  async #copy(reservation: Reservation, examination: Examination): Promise<Copied> {
    const scope = this.#scope;
    const { open, subject } = scope;
    const { config } = scope.context;
    await mkdir(migrationFolder(config, subject.id), { recursive: true, mode: 0o700 });
    open.defer(() => removeMigrationFolder(config, subject.id));
    const guard = open.use(new Guard(config, subject.id));
    const trackers = await this.#chooseTrackers(guard);
    const freezer = await freezerOf(subject.initPid);
    const prediction = this.#predict(await measure(scope, freezer.folder, trackers, examination));
    const failed = new AbortController();
    scope.cancelled = AbortSignal.any([scope.cancelled, failed.signal]); // what fails here ends what goes on beside it
    const [files, memory] = await together(
      [() => this.#copyRoot(reservation), () => this.#copyMemory(freezer, guard, trackers, prediction)],
      failed,
    );
    return { files, ...memory, trackers, criuOptions: examination.criuOptions };
  }

  /** Copies image layers the target lacks, then the container's files. */
  async #copyRoot({ presentLayers }: Reservation): Promise<SourceFiles> {
    const scope = this.#scope;
    const { engine, open, options, subject, target } = scope;
    const { id, description, initPid } = subject;
    const layers = await scope.channel(CHANNELS.layers, "layers");
    await sendAll(layers, paced(scope.pace, exportImage(engine, description.image, new Set(presentLayers))));
    await layers.close();
    scope.warn(...(await target.createContainer(id, options)));
    const files = open.use(await SourceFiles.of(engine, description, initPid, (kind) => scope.channel(kind, "files")));
    await files.copy(scope.pace);
    return files;
  }

  /** Copies the memory that has to be there at the handover and, in some modes, all other. */
  async #copyMemory(
    freezer: Freezer,
    guard: Guard,
    trackers: Trackers,
    prediction: Prediction,
  ): Promise<Pick<Copied, "shared" | "content" | "memory">> {
    const scope = this.#scope;
    const { initPid } = scope.subject;
    const tasks = tasksToHold(scope, freezer);
    const shared = scope.open.use(new SharedAhead(scope, tasks, (pid) => guard.openUserfaultfd(pid)));
    await shared.copy();
    const content = new ContentAhead(scope, { tasks, initPid, except: () => shared.rounds?.objects() ?? new Set() });
    await content.copy();
    if (!copiesAhead(scope.mode)) return { shared, content };
    const memory = scope.open.use(new MemoryAhead(scope, freezer.folder, tasks, trackers, prediction));
    this.#memory = memory;
    await memory.copy((nextBytes) => this.#expectRound(nextBytes));
    return { shared, content, memory };
  }

  /** Says what each mode would cost; `auto` becomes one. Throws DOWNTIME_TOO_LONG if that would not keep to what is allowed. */
  #predict(measured: Measured): Prediction {
    const scope = this.#scope;
    const { description, request } = scope.subject;
    const prediction = predict(measured, request.mode, request.maxDowntimeMs);
    this.#prediction = prediction;
    scope.tell({ kind: "predicted", atMs: scope.timeline.now(), prediction });
    if (prediction.mode === undefined) throw downtimeTooLong(description.name, prediction);
    scope.mode = prediction.mode;
    return prediction;
  }

  /** How writes to memory are tracked. */
  async #chooseTrackers(guard: Guard): Promise<Trackers> {
    const { context, subject } = this.#scope;
    const means = choose(await trackingFeatures());
    context.log.info({ migration: subject.id, tracking: means[0] ?? "comparison" }, "writes to memory are tracked");
    if (copiesAhead(subject.request.mode) && means.length === 0)
      this.#scope.warn("The kernel here does not note which pages are written: of more than 16 MB nothing is copied ahead");
    return new Trackers(means, (pid) => guard.openUserfaultfd(pid));
  }

  /** Does all that is slow before the freeze, on both hosts; copies for the last time what has changed since, memory last. */
  async #stage(copied: Copied): Promise<Freeze> {
    const { options, subject, target } = this.#scope;
    using namespace = NetworkNamespace.open(`/proc/${subject.initPid}/ns/net`);
    const request = { criuOptions: copied.criuOptions, interfaceNames: namesByAddress(interfacesOf(namespace)) };
    this.#scope.warn(...(await target.stage(subject.id, request, options)));
    this.#freezing = await Freeze.prepare(this.#scope, copied);
    await copied.files.catchUp(this.#scope.pace);
    await copied.shared.catchUp();
    await copied.content.catchUp();
    await copied.memory?.catchUp();
    return this.#freezing;
  }

  /** Stops the container and dumps it. When this returns the target has all it needs to restore, and nobody runs the container. */
  async #freeze(freezing: Freeze): Promise<Frozen> {
    this.#vigil?.begin();
    return await freezing.run();
  }

  /**
   * Restores on the target and gives it the container. When this returns, the target runs it; when it throws, the source may
   * run it again, unless it throws `NotOurs`.
   */
  async #handOver({ held, hostsFile, sharedSent, missingPageCount, tasks }: Frozen): Promise<void> {
    const { cancelled, context, mode, options, subject, target, timeline, undo } = this.#scope;
    const restoreAt = timeline.now();
    const whole = isWholeAtHandover(mode);
    if (whole) this.#expectPages("handover", missingPageCount);
    const restored = Promise.all([target.restore(subject.id, { whole }, options), sharedSent]);
    restored.catch(() => {}); // told below
    const standing = noteTasks(tasks);
    const [{ steps, pages }] = await restored;
    timeline.adopt(steps, restoreAt);
    this.#pages = pages ?? NO_PAGES;
    this.#assertWanted();
    cancelled.throwIfAborted();
    this.#vigil?.[Symbol.dispose]();
    await timeline.step("write down", () => noteCommitted(context.journal, subject, standing));
    undo.defer(() => reopen(hostsFile));
    this.#shut(hostsFile);
    const commitSteps = await timeline.step("commit", () => this.#commit(held.drain()));
    timeline.resumed();
    timeline.compose("commit", commitSteps, "startMs");
    this.#forwardStragglers(held);
  }

  /** From now on this host's engine can't start the container. If that can't be had, it is no reason to roll back. */
  #shut(hostsFile: string): void {
    try {
      shut(hostsFile);
    } catch (error) {
      this.#scope.logWarning(error, "what is left here could be started");
    }
  }

  /** Whoever stops or removes the container in the freeze, or ends its engine, must not find it on the target. */
  #assertWanted(): void {
    const { description, initPid } = this.#scope.subject;
    const { name } = description;
    if (!existsSync(`/proc/${initPid}/ns/net`))
      throw new DmigrateError("CONTAINER_NOT_RUNNING", "Its tasks were ended while they were frozen; start it again");
    if (this.#freezing?.wasToldToEnd === true)
      throw new DmigrateError(
        "CONTAINER_NOT_RUNNING",
        `${name}, or Docker, was told to end while it was frozen, or ended; migrate again if it is to run`,
      );
    this.#freezing?.refuseChanges();
  }

  /** Has the target take the container over. A lost answer must not lead to two owners, nor to none. */
  async #commit(packets: readonly Uint8Array[]): Promise<readonly Step[]> {
    const { subject, target } = this.#scope;
    const { id, description, request } = subject;
    try {
      return await target.commit(id, packets);
    } catch (error) {
      const verdict = await this.#doubts.settle({
        id,
        container: description.name,
        target: request.target,
        reason: error,
        urge: () => target.commit(id, packets),
        state: () => target.state(id),
        tell: (text) => this.#scope.warn(text),
      });
      if (verdict === "rolled-back") throw error;
      if (verdict === "failed") throw new NotOurs(memoryLost(description.name, request.target, subject.initPid, error));
      return [];
    }
  }

  /** Some switches learn late: what still arrives here is sent after the container. */
  #forwardStragglers(held: HeldNetwork): void {
    const { open, subject, target } = this.#scope;
    const ended = new AbortController();
    open.defer(() => ended.abort());
    const forward = async (): Promise<void> => {
      for await (const packets of held.stragglers(ended.signal)) await target.deliver(subject.id, packets);
    };
    forward().catch((error: unknown) => this.#scope.logWarning(error, "packets could not be sent on"));
  }

  /** Somebody has changed what is left here, or we have, as it is removed. */
  #changedLate(action: string): void {
    const { context, subject } = this.#scope;
    if (this.#wasChangedLate || (this.#isFinishing && action === "disconnect")) return;
    this.#wasChangedLate = true;
    const what = `${subject.description.name} was changed on ${context.self()} (\`docker update\`, \`cp\` ...) after the handover`;
    this.#scope.warn(`${what}, which did not reach ${subject.request.target}: do it there`);
  }

  /** The container runs on the target; its remaining pages follow, as long as they have a way to it. Throws MEMORY_LOST. */
  async #postCopy(frozen: Frozen): Promise<void> {
    const scope = this.#scope;
    const { target } = scope.subject.request;
    const handedOver = this.#handedOver(frozen);
    this.#serving = frozen.serving;
    const tell = (): void => scope.warn(`The connections to ${target} broke while memory crossed, and were made anew`);
    scope.open.use(keepServing(handedOver, tell));
    this.#expectPages("post-copy", frozen.missingPageCount);
    await this.#noteForNextAgent(frozen);
    this.#pages = await pagesArrived(handedOver);
  }

  /** From the commit on: for how long the target has had no way to its pages. */
  get lostForMs(): number {
    return this.#serving?.lostForMs ?? 0;
  }

  /** What an agent after this one needs to serve the pages, and to report: all that it can do without in the handover. */
  async #noteForNextAgent({ lazyRanges }: Frozen): Promise<void> {
    const { context, subject, timeline } = this.#scope;
    try {
      await this.#freezing?.explainDump();
      if (subject.request.verify) writeLazyRanges(migrationFolder(context.config, subject.id), lazyRanges());
      noteReport(context.journal, subject.id, { downtimeMs: timeline.downtimeMs, steps: timeline.steps });
    } catch (error) {
      this.#scope.logWarning(error, "an agent after this one would know less of this migration");
    }
  }

  #handedOver({ serving }: Frozen): HandedOver {
    const { context, subject, target: calls } = this.#scope;
    const { id, description, initPid, request } = subject;
    const warn = (text: string): void => this.#scope.warn(text);
    const { name: container, id: containerId } = description;
    return { context, id, container, containerId, target: request.target, calls, initPid, serving, warn };
  }

  #expectRound(nextBytes: number): void {
    const { layers, files, memory } = this.#scope.bytes;
    this.#expected = { copy: Math.max(this.#diskBytes, layers + files) + memory + nextBytes };
  }

  #expectPages(phase: "handover" | "post-copy", missingPageCount: () => number): void {
    try {
      this.#expected = { [phase]: this.#scope.bytes.memory + missingPageCount() * PAGE_BYTES };
    } catch {
      // The migration goes on without an estimate.
    }
  }

  /**
   * Every page is on the target: what is left here is an empty shell. Whatever fails now is a warning, but for pages that are wrong:
   * MEMORY_ALTERED, and what is here stays.
   */
  async #finish(frozen: Frozen): Promise<void> {
    const { held, hostsFile } = frozen;
    const scope = this.#scope;
    const { engine, subject, timeline } = scope;
    const { initPid, request } = subject;
    const handedOver = this.#handedOver(frozen);
    const lostCount = held.lostCount();
    if (lostCount > 0)
      scope.warn(`${lostCount} packets came faster than they could be held during the handover; their senders send them again`);
    await this.#freezing?.explainDump();
    const { verification, altered } = request.verify ? await verifyPages(handedOver, frozen) : {};
    this.#verification = verification;
    timeline.compose("restore", (await askFinished(handedOver))?.restoreSteps ?? [], "endMs");
    await this.#freezing?.endDump();
    if (altered !== undefined) throw altered;
    this.#isFinishing = true;
    await removeLeft(handedOver, async () => engine, { initPid, keepSource: request.keepSource, hostsFile });
  }

  /** Nothing is committed: the source runs on, and the target is cleaned. */
  async #rollBack(error: unknown): Promise<Report> {
    const cause = this.#causeOf(error);
    try {
      await this.#scope.undo.disposeAsync();
    } catch (undoError) {
      this.#scope.context.log.error({ error: undoError, migration: this.#scope.subject.id }, "rollback failed");
      return this.#report(
        "failed",
        new DmigrateError(
          "INTERNAL",
          `Could not undo the migration after "${messageOf(cause)}": ${messageOf(undoError)}; check the container with \`docker ps\``,
          undoError,
        ),
      );
    }
    return this.#report("rolled-back", await this.#lastWord(cause));
  }

  /** A connection to an agent that ends may break before its last word has come. */
  async #lastWord(cause: unknown): Promise<unknown> {
    const target = this.#lostTarget;
    const isLoss = ["PEER_UNREACHABLE", "TRANSFER_FAILED"].includes(DmigrateError.from(cause).code);
    if (target === undefined || !isLoss) return cause;
    if (!target.aborted) await Promise.race([once(target, "abort"), sleep(LAST_WORD_LIMIT_MS, undefined, { ref: false })]);
    return target.aborted ? target.reason : cause;
  }

  /** What the user can act on: a container that ended, or was stopped, breaks whatever is done with it just then. */
  #causeOf(error: unknown): unknown {
    if (this.#scope.cancelled.aborted) return this.#scope.cancelled.reason;
    const { initPid, description } = this.#scope.subject;
    if (existsSync(`/proc/${initPid}/ns/net`)) return error;
    const text = `${description.name} ended, or was stopped or restarted, during the migration; migrate again once it runs`;
    return new DmigrateError("CONTAINER_NOT_RUNNING", text, error);
  }

  async #abortTarget(): Promise<void> {
    const { subject, target } = this.#scope;
    const limit = AbortSignal.timeout(ABORT_LIMIT_MS);
    const abort = (): Promise<void> => target.abort(subject.id, { signal: limit });
    try {
      await abort();
    } catch (error) {
      const { code } = DmigrateError.from(error);
      if (code === "MIGRATION_NOT_FOUND") return; // it refused, or its next agent has cleaned up
      this.#scope.warn(`${subject.request.target} has not said that it cleaned up (${messageOf(error)}); its agent does so by itself`);
      // It does so sooner if it is told once it can be reached again.
      persist(abort, () => limit.aborted).catch((lost: unknown) =>
        this.#scope.logWarning(lost, "the target could not be told to clean up"),
      );
    }
  }

  #report(outcome: Outcome, error?: unknown): Report {
    const { bytes, context, mode, plans, subject, timeline, warnings } = this.#scope;
    const { id, request, description } = subject;
    const prediction = this.#prediction;
    const known = error === undefined ? undefined : DmigrateError.from(error);
    return {
      id,
      container: description.name,
      containerId: description.id,
      source: context.self(),
      target: request.target,
      mode,
      outcome,
      totalMs: timeline.now(),
      downtimeMs: timeline.downtimeMs,
      phases: timeline.phases,
      steps: timeline.steps,
      bytes: { ...bytes, total: totalBytes(bytes), late: this.#freezing?.lateBytes ?? 0 },
      pages: this.#pages,
      rounds: this.#memory?.told ?? [],
      plans,
      ...(prediction === undefined ? {} : { prediction }),
      ...(this.#verification === undefined ? {} : { verification: this.#verification }),
      warnings,
      ...(known === undefined ? {} : { error: { code: known.code, message: known.message } }),
    };
  }
}

/** The target owns the container, and can't run it. */
class NotOurs extends Error {
  readonly error: DmigrateError;

  constructor(error: DmigrateError) {
    super(error.message);
    this.error = error;
  }
}

/** Does several things at a time. The first failure aborts the others; it is thrown when all of them have ended. */
async function together<A, B>(work: readonly [() => Promise<A>, () => Promise<B>], failed: AbortController): Promise<[A, B]> {
  const watched = async <T>(one: () => Promise<T>): Promise<T> => {
    try {
      return await one();
    } catch (error) {
      failed.abort(error);
      throw error;
    }
  };
  const running = [watched(work[0]), watched(work[1])] as const;
  await Promise.allSettled(running);
  failed.signal.throwIfAborted();
  return await Promise.all(running);
}
