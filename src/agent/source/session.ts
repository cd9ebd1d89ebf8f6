/**
 * One migration as its source drives it: the top function reads like the protocol, one function per phase.
 *
 * Until the commit the source owns the container: whatever fails, it runs on here as if nothing had happened, and the target is
 * clean. From the commit on it never runs here again by itself.
 */
import { once } from "node:events";
import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError, messageOf } from "../../core/errors.ts";
import type { MigrationId } from "../../core/ids.ts";
import { RateMeter, remainingMs, type ExpectedBytes } from "../../core/progress.ts";
import type { ByteCounts, MigrationEvent, Outcome, PageCounts, Report } from "../../core/migration.ts";
import { dumpConfiguration } from "../../criu/configuration.ts";
import { writeHotPages } from "../../criu/hot-pages.ts";
import { freezerOf, type Freezer } from "../../criu/freezer.ts";
import { sendImages } from "../../criu/image-stream.ts";
import { prepareDump, type LazyDump } from "../../criu/lazy-dump.ts";
import { PageDecoys } from "../../criu/page-decoy.ts";
import { lazyPageCount, readLazyRanges } from "../../criu/pagemap.ts";
import { thawAfterDump } from "../../criu/thaw.ts";
import { describe } from "../../docker/describe.ts";
import { writeDescription, type ContainerDescription } from "../../docker/description.ts";
import type { Engine } from "../../docker/engine.ts";
import { exportImage } from "../../docker/images.ts";
import type { RestartPolicy } from "../../docker/inspect.ts";
import { giveBackPolicy, NEVER_RESTART, policyText, setRestartPolicy } from "../../docker/lifecycle.ts";
import { despiteRestart } from "../../docker/restart.ts";
import { isNotFound } from "../../docker/transport.ts";
import { liesOnHost, volumeIdentity } from "../../docker/volumes.ts";
import { NetworkNamespace } from "../../kernel/netns.ts";
import { PAGE_BYTES } from "../../memory/page-protocol.ts";
import { RecentWrites } from "../../memory/tracking/recent-writes.ts";
import { PageServer } from "../../memory/page-server.ts";
import { HeldNetwork } from "../../network/hold.ts";
import { unsettledCount } from "../../network/unsettled.ts";
import { interfacesOf, namesByAddress } from "../../network/interfaces.ts";
import { CHANNELS } from "../channels.ts";
import type { AgentContext } from "../context.ts";
import { collectGarbage } from "../garbage.ts";
import { sendAll, type Channel } from "../link.ts";
import { migrationFolder, removeMigrationFolder } from "../migration-folder.ts";
import type { CallOptions, MigrateRequest, PeerCalls, Reservation } from "../migrations.ts";
import { Timeline } from "../timeline.ts";
import type { SourceDetail } from "./detail.ts";
import type { Doubts } from "./doubts.ts";
import { SourceFiles } from "./files.ts";
import { refuseBlockers, runPreflight } from "./preflight.ts";
import { memoryLost, removeShell } from "./shell.ts";
import { strangersIn } from "./strangers.ts";
import { pidsIn, tasksIn } from "../../kernel/tasks.ts";

const PROGRESS_INTERVAL_MS = 200;
const REACH_RETRY_MS = 1000;
const STAND_STILL_RETRY_MS = 20;
/** How long to wait for the end of what came in by `docker exec`, and of health probes. */
const STRANGERS_LIMIT_MS = 10_000;
/** How long to wait for a target that cleans up; it goes on by itself. */
const ABORT_LIMIT_MS = 90_000;
/** How long to ask a target that has all pages how it ended the migration. */
const FINISH_LIMIT_MS = 30_000;
/** How long to wait for what an agent says of its end. */
const LAST_WORD_LIMIT_MS = 1_000;
/** How long to wait for a moment without connections that no process holds. */
const UNSETTLED_LIMIT_MS = 2_000;
const NO_PAGES: PageCounts = { total: 0, copiedAhead: 0, demanded: 0, pushed: 0, zero: 0 };

/** What a migration is about. */
export interface SourceSubject {
  readonly id: MigrationId;
  readonly request: MigrateRequest;
  readonly description: ContainerDescription;
  /** Process id of the container's init, as the host counts. */
  readonly initPid: number;
}

/** A migration away from this host. */
export class SourceSession {
  readonly #context: AgentContext;
  readonly #engine: Engine;
  readonly #target: PeerCalls;
  readonly #subject: SourceSubject;
  readonly #timeline: Timeline;
  readonly #doubts: Doubts;
  /** Aborted by the user, or, until the commit, by the loss of the target. */
  #cancelled: AbortSignal;
  /** Aborted by the loss of the target, with what its agent said of its end. */
  #lostTarget: AbortSignal | undefined;
  /** Undone on a rollback, the newest first. */
  readonly #undo = new AsyncDisposableStack();
  /** Closed when the migration ended, however it did. */
  readonly #open = new AsyncDisposableStack();
  readonly #counters: { readonly kind: keyof ByteCounts; readonly read: () => number }[] = [];
  readonly #warnings: string[] = [];
  #criuOptions: readonly string[] = [];
  #files: SourceFiles | undefined;
  #dump: LazyDump | undefined;
  #pageBytes = 0;
  #frozenAtMs: number | undefined;
  /** From before the freeze on: somebody has asked this host's engine to end the container, or to end. */
  #wasToldToEnd = false;
  /** Since when it runs again, on whichever host. */
  #resumedAtMs: number | undefined;
  #pages = NO_PAGES;
  #expected: ExpectedBytes = {};

  constructor(context: AgentContext, engine: Engine, doubts: Doubts, subject: SourceSubject, cancelled: AbortSignal) {
    this.#context = context;
    this.#doubts = doubts;
    this.#engine = engine;
    this.#subject = subject;
    this.#target = context.peers.to(subject.request.target);
    this.#timeline = new Timeline((event) => this.#tell(event));
    this.#cancelled = cancelled;
  }

  /**
   * Migrates. Returns a report, whatever happened; its outcome says who runs the container: "completed" the target, "rolled-back"
   * the source, "failed" nobody but as its error says.
   */
  async run(): Promise<Report> {
    using _progress = this.#tellProgress();
    const report = await this.#migrate();
    if (report.outcome === "failed") await this.#dump?.end(); // the frozen tasks stay, but not CRIU, in whose hands nobody could end them
    await this.#open
      .disposeAsync()
      .catch((error: unknown) => this.#context.log.warn({ error, migration: this.#subject.id }, "closing failed"));
    return report;
  }

  async #migrate(): Promise<Report> {
    const timeline = this.#timeline;
    try {
      await timeline.phase("preflight", () => this.#preflight());
      const reservation = await timeline.phase("reserve", () => this.#reserve());
      await timeline.phase("copy", () => this.#copy(reservation));
      await timeline.phase("stage", () => this.#stage());
      const frozen = await timeline.phase("freeze", () => this.#freeze());
      await timeline.phase("handover", () => this.#handOver(frozen));
      try {
        await timeline.phase("post-copy", () => this.#postCopy(frozen));
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
  async #preflight(): Promise<void> {
    const { description, request } = this.#subject;
    const { findings, criuOptions, copyBytes } = await runPreflight(
      this.#context,
      this.#engine,
      description,
      request.target,
      this.#options,
    );
    refuseBlockers(description.name, request.target, findings);
    this.#warnAll(findings.map(({ message }) => message));
    this.#criuOptions = criuOptions;
    this.#expected = { copy: copyBytes };
  }

  /** Asks the target to make room. From here on whatever the target makes is undone on a rollback. */
  async #reserve(): Promise<Reservation> {
    const { id, description } = this.#subject;
    const presence = this.#open.use(await this.#target.attend(undefined, this.#options));
    this.#lostTarget = presence.signal;
    this.#cancelled = AbortSignal.any([this.#cancelled, presence.signal]);
    this.#undo.defer(() => this.#abortTarget());
    const request = { migration: id, source: this.#context.self(), description: writeDescription(description) };
    return await this.#target.reserve(request, this.#options);
  }

  /** Copies while the container runs: image layers the target lacks, then the container's files. */
  async #copy({ presentLayers }: Reservation): Promise<void> {
    const { id, description } = this.#subject;
    const layers = await this.#channel(CHANNELS.layers, "layers");
    await sendAll(layers, exportImage(this.#engine, description.image, new Set(presentLayers)));
    await layers.close();
    this.#warnAll(await this.#target.createContainer(id, this.#options));
    this.#files = this.#open.use(
      await SourceFiles.of(this.#engine, description, this.#subject.initPid, (name) => this.#channel(name, "files")),
    );
    await this.#files.copy();
  }

  /** Lets the target do all that is slow before the freeze. */
  async #stage(): Promise<void> {
    using namespace = NetworkNamespace.open(`/proc/${this.#subject.initPid}/ns/net`);
    const interfaceNames = namesByAddress(interfacesOf(namespace));
    this.#warnAll(await this.#target.stage(this.#subject.id, { criuOptions: this.#criuOptions, interfaceNames }, this.#options));
  }

  /** Stops the container and dumps it. When this returns the target has all it needs to restore, and nobody runs the container. */
  async #freeze(): Promise<Frozen> {
    const timeline = this.#timeline;
    const { dump, decoys, writes, lastRound, imageChannel, sendingImages, pageChannel, held, freezer } = await this.#prepareFreeze();
    collectGarbage();
    this.#cancelled.throwIfAborted();

    let thaw = (): Promise<void> => freezer.thaw();
    this.#undo.defer(async () => {
      await thaw();
      this.#resumedAtMs = timeline.now();
    });
    this.#undo.defer(() => void held.release());
    const tasks = await this.#standStill(freezer, held, decoys);

    const running = dump.start();
    this.#dump = running;
    thaw = () => thawAfterDump(freezer);
    this.#undo.defer(() => running.end());
    decoys.list();
    writeHotPages(dump.images, writes.told(tasks));
    const sendingFiles = timeline.step("last file difference", () => lastRound.send());
    sendingFiles.catch(() => {}); // told below
    await timeline.step("dump", () => running.ready);
    // CRIU has thawed the cgroup and stops the tasks by itself: without this they would run if it were killed.
    const fencing = timeline.step("fence", () => freezer.fence());
    fencing.catch(() => {}); // told below
    await timeline.step("send last images", async () => {
      dump.closedImages.close();
      await sendingImages;
      await imageChannel.close();
    });
    await Promise.all([sendingFiles, fencing]);
    PageServer.serve(pageChannel, tasks, (byteCount) => (this.#pageBytes += byteCount));
    return { dump: running, images: dump.images, decoys, held, pageChannel };
  }

  /**
   * Freezes the tasks and holds their network, at a moment at which CRIU sees all that there is to move: other moments are let pass.
   * When this returns, or throws, nobody runs the container.
   * @returns process ids of the tasks on this host by those inside the container
   */
  async #standStill(freezer: Freezer, held: HeldNetwork, decoys: PageDecoys): Promise<ReadonlyMap<number, number>> {
    const timeline = this.#timeline;
    const beganAtMs = timeline.now();
    for (;;) {
      const startMs = timeline.now();
      this.#frozenAtMs = startMs;
      await freezer.freeze();
      const frozenMs = timeline.now();
      held.lock();
      const lockedMs = timeline.now();
      const tasks = tasksIn(freezer.folder);
      const [unsettled, strangers] = await Promise.all([
        unsettledCount(this.#subject.initPid),
        strangersIn(freezer.folder, this.#subject.initPid),
        decoys.update(tasks),
      ]);
      const waitedMs = startMs - beganAtMs;
      if (strangers.length === 0 && (unsettled === 0 || waitedMs > UNSETTLED_LIMIT_MS)) {
        if (unsettled > 0) this.#warn(unsettledWarning(unsettled));
        const steps = [
          { name: "freeze tasks", startMs, endMs: frozenMs },
          { name: "hold network", startMs: frozenMs, endMs: lockedMs },
          { name: "look at tasks", startMs: lockedMs, endMs: timeline.now() },
        ];
        timeline.adopt(steps, 0);
        return tasks;
      }
      held.release();
      await freezer.thaw();
      if (strangers.length > 0 && waitedMs > STRANGERS_LIMIT_MS) throw strangersStay(strangers);
      this.#cancelled.throwIfAborted();
      await sleep(STAND_STILL_RETRY_MS);
    }
  }

  /** Throws PREFLIGHT_BLOCKED if somebody has paused or changed the container: what it was when the migration began is on the target. */
  async #assertUnchanged(): Promise<void> {
    const { id, name } = this.#subject.description;
    const { State } = await this.#engine.inspectContainer(id);
    const now = writeDescription(await describe(this.#engine, id));
    const isChanged = now !== writeDescription(this.#subject.description);
    if (!State.Paused && !isChanged) return;
    const what = isChanged ? "changed (`docker update`, `rename`, `network`)" : "paused";
    throw new DmigrateError("PREFLIGHT_BLOCKED", `${name} was ${what} while its migration copied; migrate again with it as it is to be`);
  }

  /** Everything for the freeze that can be done before it. */
  async #prepareFreeze() {
    const { id, description, initPid, request } = this.#subject;
    await this.#assertUnchanged();
    const files = this.#files;
    if (files === undefined) throw new DmigrateError("INTERNAL", "The freeze came before the copy; report this as a bug");
    const folder = migrationFolder(this.#context.config, id);
    this.#open.defer(() => removeMigrationFolder(this.#context.config, id));
    const configuration = dumpConfiguration((await stat(`/proc/${initPid}/ns/net`)).ino, this.#criuOptions);
    const freezer = await freezerOf(initPid);
    const writes = this.#open.use(await RecentWrites.begin(pidsIn(freezer.folder)));
    const dump = this.#open.use(await prepareDump({ container: description.id, folder, configuration }));
    const decoys = this.#open.use(new PageDecoys());
    if (PageDecoys.isPossible) await decoys.prepare(pidsIn(freezer.folder), (decoyPid, pid) => dump.show(decoyPid, pid));
    const imageChannel = await this.#channel(CHANNELS.images, "metadata");
    const sendingImages = sendAll(
      imageChannel,
      sendImages(dump.images, dump.closedImages, (name) => decoys.amended(dump.images, name)),
    );
    sendingImages.catch(() => {}); // told in the freeze
    // Not cut by the loss of the target: after the commit it must outlive a link that is gone for a while.
    const pageChannel = (await this.#context.link.open(this.#subject.request.target, id, CHANNELS.pages)).raw();
    this.#undo.defer(() => void pageChannel.destroy());
    this.#counters.push({ kind: "memory", read: () => this.#pageBytes });
    const lastRound = await files.prepareLast();
    const namespace = this.#open.use(NetworkNamespace.open(`/proc/${initPid}/ns/net`));
    const held = this.#open.use(new HeldNetwork(namespace));
    const { RestartPolicy: restartPolicy } = description.hostConfig;
    const volumes = await Promise.all(
      description.volumes.filter(liesOnHost).map(async ({ name }) => ({ name, identity: await volumeIdentity(this.#engine, name) })),
    );
    this.#note({ frozen: { initPid, restartPolicy, pagePort: dump.port, keepSource: request.keepSource, sinceMs: Date.now() }, volumes });
    const policyLackedSinceMs = Date.now();
    this.#undo.defer(() => this.#restoreRestartPolicy(restartPolicy, policyLackedSinceMs));
    await setRestartPolicy(this.#engine, description.id, NEVER_RESTART);
    const listening = new AbortController();
    this.#open.defer(() => listening.abort());
    await this.#engine.watchForEnd(description.id, () => (this.#wasToldToEnd = true), listening.signal);
    return { dump, decoys, writes, lastRound, imageChannel, sendingImages, pageChannel, held, freezer };
  }

  /**
   * Restores on the target and gives it the container. When this returns, the target runs it; when it throws, the source may
   * run it again, unless it throws `NotOurs`.
   */
  async #handOver({ held }: Frozen): Promise<void> {
    const { id } = this.#subject;
    const timeline = this.#timeline;
    const restoreAt = timeline.now();
    timeline.adopt(await this.#target.restore(id, this.#options), restoreAt);
    this.#assertWanted();
    this.#cancelled.throwIfAborted();
    this.#context.journal.move(id, "committed");
    await timeline.step("commit", () => this.#commit(held.drain()));
    this.#resumedAtMs = timeline.now();
    this.#forwardStragglers(held);
  }

  /** Whoever stops or removes the container in the freeze, or ends its engine, must not find it on the target. */
  #assertWanted(): void {
    const { name } = this.#subject.description;
    if (!existsSync(`/proc/${this.#subject.initPid}/ns/net`))
      throw new DmigrateError("CONTAINER_NOT_RUNNING", "Its tasks were ended while they were frozen; start it again");
    if (this.#wasToldToEnd)
      throw new DmigrateError(
        "CONTAINER_NOT_RUNNING",
        `${name}, or Docker, was told to end while it was frozen; migrate again if it is to run`,
      );
  }

  /** Has the target take the container over. A lost answer must not lead to two owners, nor to none. */
  async #commit(packets: readonly Uint8Array[]): Promise<void> {
    const { id, description, request } = this.#subject;
    try {
      await this.#target.commit(id, packets);
    } catch (error) {
      const verdict = await this.#doubts.settle({
        id,
        container: description.name,
        target: request.target,
        reason: error,
        urge: () => this.#target.commit(id, packets),
        state: () => this.#target.state(id),
        tell: (text) => this.#warn(text),
      });
      if (verdict === "rolled-back") throw error;
      if (verdict === "failed") throw new NotOurs(memoryLost(description.name, request.target, error));
    }
  }

  /** Some switches learn late: what still arrives here is sent after the container. */
  #forwardStragglers(held: HeldNetwork): void {
    const ended = new AbortController();
    this.#open.defer(() => ended.abort());
    const forward = async (): Promise<void> => {
      for await (const packets of held.stragglers(ended.signal)) await this.#target.deliver(this.#subject.id, packets);
    };
    forward().catch((error: unknown) =>
      this.#context.log.warn({ err: error, migration: this.#subject.id }, "packets could not be sent on"),
    );
  }

  /** The container runs on the target; its remaining pages follow, as long as they have a way to it. Throws MEMORY_LOST. */
  async #postCopy({ images, decoys, pageChannel }: Frozen): Promise<void> {
    const { id, description, request } = this.#subject;
    try {
      this.#expected = { "post-copy": (lazyPageCount(readLazyRanges(images)) + decoys.pageCount) * PAGE_BYTES };
    } catch {
      // The migration goes on without an estimate.
    }
    const tellLost = (error: unknown): void =>
      this.#warn(
        `${messageOf(error)}: ${description.name} runs on ${request.target}, but what touches memory that has not crossed waits until ` +
          `${request.target} answers again`,
      );
    try {
      this.#pages = await persist(
        () => this.#target.awaitPages(id),
        () => pageChannel.destroyed,
        tellLost,
      );
    } catch (error) {
      throw memoryLost(description.name, request.target, error);
    }
  }

  /** Every page is on the target: what is left here is an empty shell. Whatever fails now is a warning. */
  async #finish({ dump, held }: Frozen): Promise<void> {
    const { id, description, request } = this.#subject;
    const lostCount = held.lostCount();
    if (lostCount > 0)
      this.#warn(`${lostCount} packets came faster than they could be held during the handover; their senders send them again`);
    const limitMs = this.#timeline.now() + FINISH_LIMIT_MS;
    try {
      this.#warnAll(
        await persist(
          () => this.#target.finish(id),
          () => this.#timeline.now() > limitMs,
        ),
      );
    } catch (error) {
      this.#warn(`${request.target} has all of ${description.name}, but did not say how its start there ended (${messageOf(error)})`);
    }
    await dump.end();
    try {
      await despiteRestart(() => removeShell(this.#engine, description.id, this.#subject.initPid, request.keepSource));
    } catch (error) {
      this.#warn(`What is left here could not be removed (${messageOf(error)}); remove it: \`docker rm --force ${description.name}\``);
    }
  }

  /** Nothing is committed: the source runs on, and the target is cleaned. */
  async #rollBack(error: unknown): Promise<Report> {
    const cause = this.#causeOf(error);
    try {
      await this.#undo.disposeAsync();
    } catch (undoError) {
      this.#context.log.error({ error: undoError, migration: this.#subject.id }, "rollback failed");
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

  async #restoreRestartPolicy(policy: RestartPolicy, sinceMs: number): Promise<void> {
    const { id, name } = this.#subject.description;
    try {
      const end = await giveBackPolicy(this.#engine, id, policy, sinceMs);
      if (end !== undefined) this.#warn(`${name} ${end}`);
    } catch (error) {
      if (isNotFound(error)) return; // it was removed
      const remedy = `\`docker update --restart ${policyText(policy)} ${name}\``;
      this.#warn(`${name} may have lost its restart policy (${messageOf(error)}): ${remedy} sets it again`);
    }
  }

  /** What the user can act on: a container that ended, or was stopped, breaks whatever is done with it just then. */
  #causeOf(error: unknown): unknown {
    if (this.#cancelled.aborted) return this.#cancelled.reason;
    const { initPid, description } = this.#subject;
    if (existsSync(`/proc/${initPid}/ns/net`)) return error;
    const text = `${description.name} ended, or was stopped, during the migration (${messageOf(error)}); migrate again once it runs`;
    return new DmigrateError("CONTAINER_NOT_RUNNING", text, error);
  }

  async #abortTarget(): Promise<void> {
    try {
      await this.#target.abort(this.#subject.id, { signal: AbortSignal.timeout(ABORT_LIMIT_MS) });
    } catch (error) {
      if (DmigrateError.from(error).code === "MIGRATION_NOT_FOUND") return; // it refused, or its next agent has cleaned up
      this.#warn(`${this.#subject.request.target} has not said that it cleaned up (${messageOf(error)}); its agent does so by itself`);
    }
  }

  async #channel(name: string, kind?: keyof ByteCounts): Promise<Channel> {
    const { id, request } = this.#subject;
    const channel = await this.#context.link.open(request.target, id, name, this.#cancelled);
    this.#undo.defer(() => channel.destroy());
    if (kind !== undefined) this.#counters.push({ kind, read: () => channel.counts.sent });
    return channel;
  }

  get #options(): CallOptions {
    return { signal: this.#cancelled };
  }

  #bytes(): ByteCounts {
    const bytes = { memory: 0, files: 0, layers: 0, metadata: 0 };
    for (const { kind, read } of this.#counters) bytes[kind] += read();
    return bytes;
  }

  #note(detail: SourceDetail): void {
    this.#context.journal.note(this.#subject.id, detail);
  }

  #warnAll(messages: readonly string[]): void {
    for (const message of messages) this.#warn(message);
  }

  #warn(message: string): void {
    this.#warnings.push(message);
    this.#tell({ kind: "warning", atMs: this.#timeline.now(), message });
  }

  #tell(event: MigrationEvent): void {
    this.#context.events.publish(this.#subject.id, event);
  }

  /** Says a few times a second how far the migration is. */
  #tellProgress(): Disposable {
    const rate = new RateMeter();
    const timer = setInterval(() => {
      const bytes = this.#bytes();
      const [atMs, phase] = [this.#timeline.now(), this.#timeline.current];
      const bytesPerSecond = rate.take(atMs, totalOf(bytes));
      const remaining = remainingMs(phase, this.#expected, bytes, bytesPerSecond);
      const estimate = remaining === undefined ? {} : { remainingMs: remaining };
      this.#tell({ kind: "progress", atMs, phase, bytes, rate: bytesPerSecond, ...estimate });
    }, PROGRESS_INTERVAL_MS);
    return { [Symbol.dispose]: () => clearInterval(timer) };
  }

  #report(outcome: Outcome, error?: unknown): Report {
    const { id, request, description } = this.#subject;
    const bytes = this.#bytes();
    const end = this.#resumedAtMs ?? this.#timeline.now();
    const known = error === undefined ? undefined : DmigrateError.from(error);
    return {
      id,
      container: description.name,
      containerId: description.id,
      source: this.#context.self(),
      target: request.target,
      mode: request.mode,
      outcome,
      totalMs: this.#timeline.now(),
      downtimeMs: this.#frozenAtMs === undefined ? 0 : end - this.#frozenAtMs,
      phases: this.#timeline.phases,
      steps: this.#timeline.steps,
      bytes: { ...bytes, total: totalOf(bytes) },
      pages: this.#pages,
      warnings: this.#warnings,
      ...(known === undefined ? {} : { error: { code: known.code, message: known.message } }),
    };
  }
}

/** What is there once the container is frozen and dumped. */
interface Frozen {
  readonly dump: LazyDump;
  /** Where its images lie. */
  readonly images: string;
  readonly decoys: PageDecoys;
  readonly held: HeldNetwork;
  /** What the lazy pages cross by. There is no other: a target that has lost it has lost them. */
  readonly pageChannel: Duplex;
}

/** The target owns the container, and can't run it. */
class NotOurs extends Error {
  readonly error: DmigrateError;

  constructor(error: DmigrateError) {
    super(error.message);
    this.error = error;
  }
}

/** Asks the target again after the link was lost, until that is hopeless. Tells of it once. */
async function persist<T>(call: () => Promise<T>, isHopeless: () => boolean, tellLost: (error: unknown) => void = () => {}): Promise<T> {
  let isTold = false;
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (isHopeless() || DmigrateError.from(error).code !== "PEER_UNREACHABLE") throw error;
      if (!isTold) tellLost(error);
      isTold = true;
      await sleep(REACH_RETRY_MS);
    }
  }
}

/** A process that `docker exec` or a health check started can't be dumped. */
function strangersStay(pids: readonly number[]): DmigrateError {
  const text = `Processes ${pids.join(", ")} came into the container by \`docker exec\` and do not end; end them, then migrate again`;
  return new DmigrateError("DUMP_FAILED", text);
}

function unsettledWarning(count: number): string {
  return (
    `${count} connections did not come along, which the container had not accepted for ${UNSETTLED_LIMIT_MS / 1000} s or had closed ` +
    "with something left to send; their clients notice when they send something"
  );
}

function totalOf({ memory, files, layers, metadata }: ByteCounts): number {
  return memory + files + layers + metadata;
}
