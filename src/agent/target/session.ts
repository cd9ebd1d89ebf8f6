/**
 * One migration as its target sees it: every call of the source is a method here, and everything a method made is undone by
 * `abort` until the container is committed.
 */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { freemem } from "node:os";
import path from "node:path";
import { isDeepStrictEqual } from "node:util";
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError, messageOf, tryAll } from "../../core/errors.ts";
import type { ContainerId, HostName, MigrationId } from "../../core/ids.ts";
import type { Outcome, PageCounts, Step } from "../../core/migration.ts";
import { MEMORY_STEP } from "../../core/prediction.ts";
import { receiveImages, type AheadContent } from "../../criu/image-stream.ts";
import { mendInterruptedCalls } from "../../criu/interrupted-calls.ts";
import { mendMaskedPaths } from "../../criu/masked-paths.ts";
import { mendOverdueTimers } from "../../criu/overdue-timers.ts";
import { mendRootCgroups } from "../../criu/root-cgroups.ts";
import { mapGiven, nameOfGiven } from "../../criu/given-memory.ts";
import { readEmptied, type EmptiedMemory } from "../../criu/shared-memory.ts";
import { createContainer } from "../../docker/create.ts";
import type { ContainerDescription } from "../../docker/description.ts";
import type { Engine } from "../../docker/engine.ts";
import { importImage, planImport, presentLayers } from "../../docker/images.ts";
import { giveBackPolicy } from "../../docker/lifecycle.ts";
import { ensureNetwork } from "../../docker/networks.ts";
import { ensureVolume, liesOnHost } from "../../docker/volumes.ts";
import { announce } from "../../network/announce.ts";
import { inject } from "../../network/inject.ts";
import { interfacesOf, namesByAddress, renamedInterfaces } from "../../network/interfaces.ts";
import { RUNTIME } from "../../core/preflight-hosts.ts";
import { PAGE_BYTES } from "../../memory/page-protocol.ts";
import { NO_PROCESS } from "../../memory/content-rounds.ts";
import type { DigestedRun } from "../../memory/page-digests.ts";
import { PageStore } from "../../memory/page-store.ts";
import { assertMapped, sharedFile } from "../../memory/shared-files.ts";
import type { TrunkStream } from "../../transfer/stream.ts";
import { CHANNELS, PAGE_CHANNELS, treeChannel } from "../channels.ts";
import type { AgentContext } from "../context.ts";
import { writeOnceRoom } from "../journal.ts";
import { collectGarbage } from "../garbage.ts";
import { receiveAll, type Channel, type ChannelHandler, type Dialled } from "../link.ts";
import { migrationFolder, removeMigrationFolder } from "../migration-folder.ts";
import { rootOfEngine } from "../id-maps.ts";
import type { Finished, Reservation, RestoreRequest, Restored, StageRequest } from "../migrations.ts";
import { PAGES_LOST_LIMIT_MS, type PageChannels } from "../page-channels.ts";
import { fetchPaceOf } from "./fetch-pace.ts";
import { TargetFiles } from "./files.ts";
import { Made } from "./made.ts";
import { Steps } from "../timeline.ts";
import { openTaskPages, type TaskPages } from "./pages.ts";
import { SHARED_MEMORY_NAME } from "../../kernel/shared-objects.ts";
import { tasksIn } from "../../kernel/tasks.ts";
import { createClosed, orphan } from "./staged-folder.ts";
import { Staging } from "./staging.ts";
import type { Undoing } from "./undoing.ts";

/** How long an engine may take to take a restored container over, in which that stands still. */
const ENGINE_LIMIT_MS = 5_000;
/** How long a source that can't be reached may take to commit; it gives up later (src/agent/source/session.ts). */
const COMMIT_LIMIT_MS = 60_000;

const COMMIT_POLL_MS = 20;
/** How soon a source is dialled again that can't be reached. */
const REDIAL_MS = 1_000;
/** So much of the free memory may be taken by what is copied ahead: the container will want it, and no more. */
const STORE_SHARE = 0.8;
/** What the files of content are called that was copied ahead. */
const CONTENT_NAME = "dmigrate content";
/** How long a source may take to ask how a session ended that is complete; it need not know. */
const FINISH_LIMIT_MS = 10_000;
/** What runc wants to see of the images when a restore starts: it writes this when a dump starts, before the freeze. */
const FIRST_IMAGE = "descriptors.json";
/** A warning. */
const NOT_WARM =
  "The agent of the target runs with --page-handler criu, which has no use for memory that is copied ahead: all of it crosses again";

/** What a session is about. */
export interface SessionSubject {
  readonly id: MigrationId;
  readonly source: HostName;
  readonly description: ContainerDescription;
  /** Whether to keep digests of what tasks are given. */
  readonly verify: boolean;
}

/** A migration to this host. */
export class TargetSession {
  readonly subject: SessionSubject;
  readonly #context: AgentContext;
  readonly #engine: Engine;
  /** What is open as long as something may arrive; closed when the session ends, however it does. */
  readonly #open = new AsyncDisposableStack();
  /** How the source reaches the session: it stays until the source knows that it has ended, and why. */
  readonly #contact = new DisposableStack();
  readonly #made: Made;
  readonly #undoing: Undoing;
  /** Fulfilled when the session has ended, however it did. */
  readonly #ended = Promise.withResolvers<void>();
  #turn: Promise<unknown> = Promise.resolve();
  /** What is written here as it arrives, by its channel. */
  readonly #writing = new Map<Channel, Promise<void>>();
  #isUndoing = false;
  /** Rejected when everything is to be undone: a restore waits for memory no more then. */
  readonly #unwanted = Promise.withResolvers<never>();
  #undone: Promise<void> | undefined;
  /** Why it ended before the source asked for that. */
  #brokenBy: DmigrateError | undefined;
  readonly #agentEnds = new AbortController();
  /** When the engine was asked to create the container, Unix time. */
  #createdAtMs = 0;
  /** What lives in this process; ended before `#made` is undone, and left alone from `commit` on. */
  #running = new AsyncDisposableStack();
  #container: ContainerId | undefined;
  #files: TargetFiles | undefined;
  #staging: Staging | undefined;
  /** What of the memory was copied ahead. */
  readonly #store: PageStore;
  /** What of shared memory was, all that there is of what the source has told of. */
  readonly #shared: PageStore;
  /** The content that images refer to, by its numbers, as pages of `NO_PROCESS`. */
  readonly #content: PageStore;
  readonly #sharedReceived = Promise.withResolvers<void>();
  /** Whether memory is copied ahead. */
  #isWarm = false;
  #trunk: Dialled | undefined;
  readonly #pageChannels: Partial<Record<keyof PageChannels, TrunkStream>> = {};
  #pages: TaskPages | undefined;
  #imagesReceived = Promise.withResolvers<void>();
  /** From the restore on: whether the engine takes calls, and the kernel will ask for what the tasks lack. The commit waits for it. */
  #checked: Promise<unknown> | undefined;
  /** True from the commit on: the container is this host's, whatever becomes of the session. */
  #isCommitted = false;
  /** From when all pages are asked for on: before the commit or after it. */
  #arrived: Promise<PageCounts> | undefined;
  #completed: Promise<Finished> | undefined;

  constructor(context: AgentContext, engine: Engine, subject: SessionSubject, undoing: Undoing) {
    this.#context = context;
    this.#undoing = undoing;
    this.#engine = engine;
    this.subject = subject;
    this.#made = new Made(context.journal, subject.id);
    this.#imagesReceived.promise.catch(() => {}); // told to whoever restores
    this.#unwanted.promise.catch(() => {}); // as long as nobody waits for memory
    this.#sharedReceived.promise.catch(() => {}); // likewise
    const pageCountMax = (freemem() * STORE_SHARE) / PAGE_BYTES;
    this.#shared = this.#open.use(new PageStore(pageCountMax, [], SHARED_MEMORY_NAME));
    this.#content = this.#open.use(new PageStore(pageCountMax, [this.#shared], CONTENT_NAME));
    const copiedMax = context.config.pageHandler === "own" ? pageCountMax : 0;
    this.#store = this.#open.use(new PageStore(copiedMax, [this.#shared, this.#content]));
  }

  /** Fulfilled when the session has ended, however it did. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  /** Opens the session. Nobody but the source runs the container. */
  reserve(): Promise<Reservation> {
    return this.#inTurn(async () => {
      const presence = this.#contact.use(await this.#context.peers.to(this.subject.source).attend(this.subject.id));
      presence.signal.addEventListener("abort", () => void this.#loseSource(presence.signal.reason));
      this.#trunk = await this.#dial();
      this.#accept(CHANNELS.layers.name, (channel) => this.#inTurn(() => this.#receiveLayers(channel)));
      this.#acceptContent(CHANNELS.memory.name, (channel) => {
        this.#isWarm = true;
        channel.receivePages((run, bytes) => this.#store.take(run, bytes));
        return this.#store.takeHoles(receiveAll(channel));
      });
      this.#accept(CHANNELS.probe.name, async (channel) => {
        channel.receivePages(() => {});
        for await (const _bytes of receiveAll(channel));
      });
      this.#acceptContent(CHANNELS.sharedMemory.name, (channel) => receiveKept(channel, this.#shared));
      this.#acceptContent(CHANNELS.content.name, (channel) => receiveKept(channel, this.#content));
      this.#acceptContent(CHANNELS.lastSharedMemory.name, async (channel) => {
        try {
          await receiveKept(channel, this.#shared);
          this.#shared.close();
          this.#sharedReceived.resolve();
        } catch (error) {
          this.#sharedReceived.reject(error);
          throw error;
        }
      });
      this.#acceptContent(CHANNELS.images.name, (channel) => this.#receiveImages(channel));
      for (const use of ["demanded", "ahead", "criu"] as const)
        this.#accept(PAGE_CHANNELS[use].name, (channel) => this.#openPages(use, channel));
      return { presentLayers: await presentLayers(this.#engine) };
    });
  }

  /** Creates the container, its networks and volumes. It does not run. Returns warnings. */
  createContainer(): Promise<readonly string[]> {
    return this.#inTurn(() => this.#createContainer());
  }

  async #createContainer(): Promise<readonly string[]> {
    for (const network of this.subject.description.networks) {
      await ensureNetwork(this.#engine, network, () => this.#made.addNetwork(network.name));
    }
    for (const volume of this.subject.description.volumes) {
      const { created } = await ensureVolume(this.#engine, volume, () => this.#made.addVolume(volume.name, true));
      if (!created && liesOnHost(volume)) this.#made.addVolume(volume.name, false);
    }
    this.#made.expectContainer(this.subject.description.name);
    this.#createdAtMs = Date.now();
    const { id, warnings } = await createClosed(this.subject.id, (close) =>
      createContainer(this.#engine, this.subject.description, RUNTIME, async (created) => {
        await close(created);
        this.#made.addContainer(created, this.subject.description.hostConfig.RestartPolicy);
        this.#container = created;
      }),
    );
    await this.#expectFiles(id);
    return warnings;
  }

  /** Starts the container so far that only its running state is missing. It does not run. Returns warnings. */
  stage(request: StageRequest): Promise<readonly string[]> {
    return this.#inTurn(() => this.#stage(request));
  }

  async #stage({ criuOptions, interfaceNames }: StageRequest): Promise<readonly string[]> {
    const container = this.#need(this.#container, "createContainer");
    const files = this.#need(this.#files, "createContainer");
    const root = await rootOfEngine(this.#engine, this.subject.description);
    await this.#assertAsDescribed(container, { isStarted: false });
    await files.release();
    const staging = await Staging.begin(container, root, criuOptions, () => this.#engine.startContainer(container));
    this.#running.use(staging);
    staging.started().catch((error: unknown) => void this.#giveUp(error));
    files.continueAt(staging.rootfs);
    this.#staging = staging;
    const { pageHandler, order } = this.#context.config;
    this.#pages = this.#running.use(openTaskPages(pageHandler, staging, this.#store, order, this.subject.verify));
    const renamed = renamedInterfaces(interfaceNames, namesByAddress(interfacesOf(staging.namespace)));
    return this.#isWarm && this.#context.config.pageHandler === "criu" ? [...renamed, NOT_WARM] : renamed;
  }

  /** Restores every task. None runs, neither when this returns nor when it throws. */
  restore(request: RestoreRequest): Promise<Restored> {
    return this.#inTurn(() => this.#restore(request));
  }

  async #restore({ whole }: RestoreRequest): Promise<Restored> {
    const staging = this.#need(this.#staging, "stage");
    const steps = new Steps();
    await this.#imagesReceived.promise;
    const shared = readEmptied(staging.images);
    await steps.take("mend images", () => {
      mendImages(staging.images);
      if (shared.length > 0) mapGiven(staging.images, shared);
    });
    const given = new Map(shared.map((each) => [nameOfGiven(each.object), sharedFile(this.#shared, each)]));
    const { demanded, ahead, criu } = this.#pageChannels;
    const needed = (channel: TrunkStream | undefined): TrunkStream => this.#need(channel, "the channels for pages");
    const pageChannels = { demanded: needed(demanded), ahead: needed(ahead), criu: needed(criu) };
    const pages = this.#need(this.#pages, "stage");
    await steps.take("page handler", () => pages.serve(pageChannels));
    await steps
      .take("restore", () => Promise.race([staging.restore(given), pages.failure]))
      .catch((error: unknown) => {
        this.#context.log.error({ err: error, migration: this.subject.id }, "the restore failed");
        throw error;
      });
    pages.restored();
    await this.#completeShared(shared, staging, steps);
    const registered = pages.assertServed(tasksIn(staging.cgroup));
    registered.catch(() => {}); // told below, unless somebody has ended the tasks
    let arrived: PageCounts | undefined;
    if (whole) {
      await registered; // which can't be seen any more once no page is missing
      const whenArrived = (this.#arrived = pages.finish());
      arrived = await steps.take(MEMORY_STEP, () => Promise.race([whenArrived, this.#unwanted.promise, this.#trunkBroken()]));
    }
    this.#checked = this.#assertTakenOver(staging).then(() => registered);
    this.#checked.catch(() => {}); // told to `commit`
    await steps.take("write down", () => this.#context.journal.move(this.subject.id, "prepared"));
    return { steps: steps.all, ...(arrived === undefined ? {} : { pages: arrived }) };
  }

  /** Returns when the restored tasks have all of the memory that they share. */
  async #completeShared(shared: readonly EmptiedMemory[], staging: Staging, steps: Steps): Promise<void> {
    if (shared.length === 0) return;
    await steps.take("shared memory", async () => {
      await this.#sharedReceived.promise;
      assertMapped(this.#shared, shared, tasksIn(staging.cgroup));
    });
  }

  /**
   * Returns when the engine has taken the container over as it is to be: who stops, changes or removes one that is being started waits
   * until then, and would get it. Throws DOCKER if it takes no calls, CONTAINER_CHANGED if somebody has.
   */
  async #assertTakenOver(staging: Staging): Promise<void> {
    const container = this.#need(this.#container, "createContainer");
    const limit = sleep(ENGINE_LIMIT_MS, undefined, { ref: false }).then(() => {
      throw new DmigrateError("DOCKER", "Docker Engine does not take over what was restored; see its log, and migrate again");
    });
    limit.catch(() => {}); // nobody waits for it any more
    await Promise.race([staging.started().then(() => this.#assertAsDescribed(container, { isStarted: true })), limit]);
  }

  /**
   * Throws CONTAINER_CHANGED if somebody has done something to the container that was made here. An engine that has been told to end, and
   * would end it, answers nothing.
   */
  async #assertAsDescribed(container: ContainerId, { isStarted }: { readonly isStarted: boolean }): Promise<void> {
    const { name, endpoints } = this.subject.description;
    const { State, NetworkSettings } = await this.#engine.inspectContainer(container);
    const requests = await this.#engine.requestsSince(container, this.#createdAtMs);
    const isConnected = isDeepStrictEqual(Object.keys(NetworkSettings.Networks).toSorted(), Object.keys(endpoints).toSorted());
    if (requests.length === 0 && isConnected && State.Running === isStarted && !State.Paused) return;
    const what =
      requests.some(({ kind }) => kind === "signal") || (isStarted && !State.Running) ? "stopped or removed" : "paused or changed";
    throw new DmigrateError("CONTAINER_CHANGED", `${name} was ${what} on the target while it was on its way; migrate again`);
  }

  /**
   * The point of no return: when this returns the tasks run here. When it throws the target's journal says whose the container is: unless
   * that has `owner` or what follows, this was a refusal, and the source's.
   */
  commit(heldPackets: readonly Uint8Array[]): Promise<readonly Step[]> {
    return this.#inTurn(() => this.#commit(heldPackets));
  }

  async #commit(heldPackets: readonly Uint8Array[]): Promise<readonly Step[]> {
    const staging = this.#need(this.#staging, "restore");
    const steps = new Steps();
    if (staging.hasFailed)
      throw new DmigrateError(
        "RESTORE_FAILED",
        "The restored container was ended before the handover; the container keeps running on the source",
      );
    await steps.take("engine takes over", () => this.#checked);
    // Sent by a source that was lost meanwhile: since then it may have ended, or taken the container back.
    if (this.#brokenBy !== undefined) this.#contact.use(await this.#context.peers.to(this.subject.source).attend(this.subject.id));
    await steps.take("write down", () => {
      this.#context.journal.move(this.subject.id, "owner");
      this.#isCommitted = true;
      this.#running.move(); // drops it: nothing of it may be ended any more
    });
    try {
      await steps.take("resume", () => this.#resume(staging, heldPackets));
    } catch (error) {
      this.#context.journal.move(this.subject.id, "failed");
      throw error;
    }
    const pages = this.#need(this.#pages, "stage");
    if (this.#arrived === undefined) {
      this.#arrived = pages.finish(fetchPaceOf(this.#context.config));
      void this.#keepDialled(pages, this.#arrived);
    } else this.#noteWhole();
    this.#completed = this.#complete(this.#arrived, staging);
    this.#completed.catch(() => {}); // told to `finish`
    return steps.all;
  }

  /** Never returns; throws TRANSFER_FAILED or PROTOCOL when the trunk has gone. Until the commit no other one is dialled. */
  async #trunkBroken(): Promise<never> {
    const reason = await this.#need(this.#trunk, "reserve").over;
    if (reason instanceof DmigrateError) throw reason;
    throw new DmigrateError("TRANSFER_FAILED", "The connections for memory were cut; check the network between the hosts", reason);
  }

  /** For an agent after this one: the tasks run, and lack nothing. */
  #noteWhole(): void {
    try {
      this.#made.runsWhole();
    } catch (error) {
      this.#context.log.warn({ err: error, migration: this.subject.id }, "that all memory has come can't be written down");
    }
  }

  async #dial(): Promise<Dialled> {
    return this.#contact.use(await this.#context.link.dial(this.subject.source, this.subject.id));
  }

  /** Dials again whenever the trunk breaks, until all pages are here, or the source has none any more. */
  async #keepDialled(pages: TaskPages, arrived: Promise<unknown>): Promise<void> {
    const over = arrived.then(
      () => "arrived" as const,
      () => "arrived" as const,
    );
    for (;;) {
      this.#trunk?.watch();
      const reason = await Promise.race([over, this.#trunk?.over]);
      if (reason === "arrived") return;
      this.#context.log.warn({ err: reason, migration: this.subject.id }, "the trunk broke while pages were missing; dialling again");
      if (reason instanceof DmigrateError) await Promise.race([over, sleep(REDIAL_MS)]); // what was sent can't be: it may be so again
      try {
        this.#trunk = await this.#dialAgain(over);
      } catch (error) {
        return pages.giveUp(error);
      }
    }
  }

  /**
   * Returns another trunk, or undefined once `over` is fulfilled. Throws what shows that the pages are lost: the source's word that it has
   * none for this migration, or that it could not be reached for too long.
   */
  async #dialAgain(over: Promise<unknown>): Promise<Dialled | undefined> {
    const { source } = this.subject;
    const deadline = performance.now() + PAGES_LOST_LIMIT_MS;
    const ended = new AbortController();
    void over.then(() => ended.abort());
    for (let isTold = false; !ended.signal.aborted; isTold = true) {
      try {
        const trunk = await this.#dial();
        if (isTold) this.#tell(`${source} answers again: the rest of the memory of ${this.subject.description.name} crosses`);
        return trunk;
      } catch (error) {
        if (ended.signal.aborted || isFinal(error) || performance.now() > deadline) throw error;
        if (!isTold) this.#tell(waiting(this.subject, error));
        await Promise.race([over, sleep(REDIAL_MS)]);
      }
    }
    return undefined;
  }

  /** For `dmigrate list` on this host. */
  #tell(message: string): void {
    const { events, journal, log } = this.#context;
    const { beganAtMs } = journal.get(this.subject.id);
    log.warn({ migration: this.subject.id }, message);
    events.publish(this.subject.id, { kind: "warning", atMs: Date.now() - beganAtMs, message });
  }

  /**
   * Waits until the container has all its memory and is an ordinary one of this host. That needs nothing more of the source than its
   * pages, so it happens also when the source does not ask.
   */
  async #complete(arrived: Promise<PageCounts>, staging: Staging): Promise<Finished> {
    const { log } = this.#context;
    const { id } = this.subject;
    let finished: Finished;
    try {
      const [warnings] = await Promise.all([this.#handToEngine(staging), arrived]);
      finished = { warnings, restoreSteps: await staging.restoreSteps() };
      await staging[Symbol.asyncDispose]();
      await this.#open.disposeAsync();
      this.#contact.dispose();
    } catch (error) {
      log.error({ err: error, migration: id }, "the container lacks memory that does not come any more");
      await orphan(this.#need(this.#container, "createContainer"));
      await tryAll([() => staging[Symbol.asyncDispose](), () => this.#open.disposeAsync()]);
      await this.#enter("failed");
      this.#part();
      throw error;
    }
    await this.#enter("completed");
    return finished;
  }

  /** Enters in the journal how the migration has ended: as long as that is missing, no container of its name may come here. */
  async #enter(outcome: Outcome): Promise<void> {
    const { journal, log } = this.#context;
    const { id } = this.subject;
    await writeOnceRoom(
      () => journal.move(id, outcome),
      this.#agentEnds.signal,
      (error) => log.error({ err: error, migration: id }, "its end can't be written down yet"),
    );
  }

  /** The container runs: from now on its engine looks after it. Returns warnings. */
  async #handToEngine(staging: Staging): Promise<readonly string[]> {
    const container = this.#need(this.#container, "createContainer");
    const { name, hostConfig } = this.subject.description;
    const committedAtMs = Date.now();
    await staging.started().catch(() => {}); // it has ended already: see below
    try {
      const end = await giveBackPolicy(this.#engine, container, hostConfig.RestartPolicy, () => ({
        sinceMs: committedAtMs,
        hasEngineEnded: false,
      }));
      return end === undefined ? [] : [`${name} ${end}`];
    } catch (error) {
      const what = staging.isAlive ? `did not take over ${name}` : `ended, and ${name} with it`;
      return [`Docker ${what} (${messageOf(error)}): see \`docker ps --all\` and its restart policy there`];
    }
  }

  async #resume(staging: Staging, heldPackets: readonly Uint8Array[]): Promise<void> {
    staging.silence.lift();
    announce(staging.namespace).catch((error: unknown) =>
      this.#context.log.warn({ err: error, migration: this.subject.id }, "announcement failed"),
    );
    inject(staging.namespace, heldPackets);
    await staging.resume();
  }

  /** Takes packets that still reached the source after the commit. They come too late once the migration is over. */
  deliver(packets: readonly Uint8Array[]): void {
    const staging = this.#need(this.#staging, "commit");
    if (!staging.isOver) inject(staging.namespace, packets);
  }

  /** Has the engine send the container a signal, by its number. */
  async signal(signal: number): Promise<void> {
    const staging = this.#need(this.#staging, "commit");
    await staging.started(); // until then its engine does not
    await this.#engine.killContainer(this.#need(this.#container, "createContainer"), signal);
  }

  /** Returns when the last page arrived. The container runs here all the while. */
  async awaitPages(): Promise<PageCounts> {
    return await this.#need(this.#arrived, "commit");
  }

  /** Digests of all lazy pages as the tasks were given them, once the last one arrived. Throws PROTOCOL if that was not asked for. */
  async *digests(): AsyncGenerator<DigestedRun, void> {
    await this.awaitPages();
    yield* this.#need(this.#pages?.given, "Reserve with verify").runs();
  }

  /** Returns when the container is an ordinary one of this host; the source needs nothing more to know. */
  async finish(): Promise<Finished> {
    const finished = await this.#need(this.#completed, "commit");
    this.#ended.resolve();
    return finished;
  }

  /**
   * For an agent that is to end: undoes everything, or returns when the container, committed, has its memory or never will. Once the source
   * was told that the tasks are restored it may have committed, and must not look for an agent that has gone: its commit is waited for.
   */
  async end(): Promise<void> {
    this.#agentEnds.abort();
    await this.#turn; // perhaps the restore
    const deadline = performance.now() + COMMIT_LIMIT_MS;
    while (this.#context.journal.get(this.subject.id).state === "prepared" && performance.now() < deadline) await sleep(COMMIT_POLL_MS);
    if (!this.#isCommitted)
      this.#brokenBy ??= new DmigrateError("AGENT", "The agent was told to end; migrate again once the next one runs");
    try {
      return await this.#undo(); // and stay in contact: whatever the source asks for is refused with the reason
    } catch (error) {
      if (!this.#isCommitted) throw error;
    }
    const isComplete = await this.#completed?.then(
      () => true,
      () => false,
    );
    if (isComplete === true) await Promise.race([this.ended, sleep(FINISH_LIMIT_MS, undefined, { ref: false })]);
  }

  /**
   * Undoes everything. Nobody on this host runs the container, neither when this returns nor when it throws: then it goes on behind this.
   * Throws CANCEL_TOO_LATE after `commit`.
   */
  async abort(): Promise<void> {
    try {
      await this.#undo();
    } finally {
      if (!this.#isCommitted) this.#part();
    }
  }

  #undo(): Promise<void> {
    this.#unwanted.reject(this.#reason);
    this.#undone ??= this.#turn.then(() => this.#undoOnce());
    this.#turn = this.#undone.catch(() => {});
    return this.#undone;
  }

  async #undoOnce(): Promise<void> {
    const { id } = this.subject;
    if (this.#isCommitted)
      throw new DmigrateError("CANCEL_TOO_LATE", `Migration ${id} is handed over: the container belongs to this host now`);
    this.#isUndoing = true;
    await this.#stopWriting();
    await this.#undoing.undo(id, () =>
      tryAll([() => this.#open.disposeAsync(), () => this.#running.disposeAsync(), () => this.#made.undo(this.#engine)]),
    );
  }

  /** The source knows how it ended, or never will ask. */
  #part(): void {
    this.#contact.dispose();
    this.#ended.resolve();
  }

  /** For when the source's agent has ended or can't be reached. */
  async #loseSource(reason: unknown): Promise<void> {
    await this.#giveUp(reason);
    if (!this.#isCommitted) this.#part();
  }

  /**
   * For when the source is lost, or the held start has failed. Before the source was told that the tasks are restored it cannot have
   * committed; afterwards it may have, so they are kept, frozen, for as long as it may ask.
   */
  async #giveUp(reason: unknown): Promise<void> {
    const { id } = this.subject;
    this.#brokenBy ??= DmigrateError.from(reason);
    try {
      if (this.#context.journal.get(id).state === "prepared" && this.#staging?.hasFailed === false)
        await sleep(COMMIT_LIMIT_MS, undefined, { ref: false });
      if (!this.#isCommitted) await this.#undo();
    } catch (error) {
      this.#context.log.error({ err: error, migration: id }, "could not clean up after a session that broke");
    }
  }

  /** Calls are served one after the other: what one makes, the next may undo. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(() => {
      this.#assertOpen();
      return this.#explained(work);
    });
    this.#turn = turn.catch(() => {});
    return turn;
  }

  /** Does what the container that was made may be needed for: if that fails because somebody has removed it, it says so. */
  async #explained<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      const container = this.#container;
      if (container === undefined || this.#isCommitted || this.#isUndoing) throw error;
      // Unlike an inspection, a list does not wait for a start that is held.
      const engine = this.#engine.until(AbortSignal.timeout(ENGINE_LIMIT_MS));
      const listed = await engine.listContainers({ all: true, filters: { id: [container] } }).catch(() => undefined);
      // An engine that removes one still knows it when its files are gone.
      const isRemoved = listed?.every(({ State }) => State === "removing" || State === "dead") ?? false;
      if (!isRemoved) throw error;
      const text = `${this.subject.description.name} was removed on the target while it was on its way; migrate again`;
      throw new DmigrateError("CONTAINER_CHANGED", text, error);
    }
  }

  /** Throws why the session has ended, if it has. */
  #assertOpen(): void {
    if (this.#isUndoing || this.#open.disposed) throw this.#reason;
  }

  /** Why it ended. */
  get #reason(): DmigrateError {
    return this.#brokenBy ?? new DmigrateError("CANCELLED", `Migration ${this.subject.id} has ended on this host; migrate again`);
  }

  #accept(name: string, handler: ChannelHandler): void {
    const { source, id } = this.subject;
    const handle: ChannelHandler = async (channel) => {
      try {
        await this.#explained(() => handler(channel));
      } catch (error) {
        this.#assertOpen(); // it may have failed because what it works on was taken away
        throw error;
      }
    };
    this.#contact.use(this.#context.link.accept(source, id, name, handle, () => this.#assertOpen()));
  }

  /** Accepts a channel whose content is written here: an undo ends that first, and removes nothing into which it still writes. */
  #acceptContent(name: string, handler: ChannelHandler): void {
    this.#accept(name, async (channel) => {
      const writing = handler(channel);
      this.#writing.set(
        channel,
        writing.catch(() => {}), // told below
      );
      try {
        await writing;
      } finally {
        this.#writing.delete(channel);
      }
    });
  }

  async #stopWriting(): Promise<void> {
    for (const channel of this.#writing.keys()) channel.giveUp(this.#reason);
    await Promise.all(this.#writing.values());
  }

  async #expectFiles(container: ContainerId): Promise<void> {
    const { config } = this.#context;
    this.#open.defer(() => removeMigrationFolder(config, this.subject.id));
    const folder = migrationFolder(config, this.subject.id);
    const files = await TargetFiles.open(this.#engine, this.subject.description, container, folder);
    this.#files = files;
    for (let index = 0; index < files.treeCount; index++) {
      this.#acceptContent(treeChannel(index, false).name, (channel) => files.apply(index, receiveAll(channel)));
    }
    this.#acceptContent(CHANNELS.logFiles.name, (channel) => files.applyLogFiles(receiveAll(channel)));
    this.#accept(CHANNELS.logOutput.name, async (channel) => {
      this.#open.use(await files.replayOutput(receiveAll(channel)));
    });
  }

  async #receiveLayers(channel: Channel): Promise<void> {
    const { image } = this.subject.description;
    const plan = await planImport(this.#engine, image);
    this.#made.addImage(plan);
    await importImage(this.#engine, receiveAll(channel), image, plan);
  }

  async #receiveImages(channel: Channel): Promise<void> {
    try {
      const staging = this.#need(this.#staging, "stage");
      const arrived = (name: string): void => {
        if (name !== FIRST_IMAGE) return;
        staging.startRestore();
        collectGarbage();
      };
      await receiveImages(receiveAll(channel), staging.images, arrived, contentIn(this.#content));
      this.#content[Symbol.dispose](); // the tasks will want that memory
      this.#imagesReceived.resolve();
    } catch (error) {
      this.#imagesReceived.reject(error);
      throw error;
    }
  }

  async #openPages(use: keyof PageChannels, channel: Channel): Promise<void> {
    const raw = channel.raw();
    this.#open.defer(() => void raw.destroy());
    this.#pageChannels[use] = raw;
    const { demanded, ahead, criu } = this.#pageChannels;
    if (!this.#isCommitted || demanded === undefined || ahead === undefined || criu === undefined) return;
    const channels = { demanded, ahead, criu };
    if (Object.values(channels).every(({ destroyed }) => !destroyed)) this.#pages?.resume(channels); // those of another trunk
  }

  #need<T>(value: T | undefined, before: string): T {
    if (value === undefined)
      throw new DmigrateError("PROTOCOL", `The source called out of order: ${before} comes first; update both agents to the same release`);
    return value;
  }
}

/** Whether a source that was dialled has said itself that it has no pages for us, or is not the one it was. */
function isFinal(error: unknown): boolean {
  return ["PEER_REFUSED", "HOST_UNKNOWN"].includes(DmigrateError.from(error).code);
}

function waiting({ source, description: { name } }: SessionSubject, error: unknown): string {
  return (
    `${name} runs here, but what touches memory that has not crossed waits for ${source} (${messageOf(error)}): it has the rest for as ` +
    `long as that machine runs, and sends it once its agent does; if it is lost for good, \`docker restart ${name}\` here starts it anew`
  );
}

/** Keeps pages of which the handover needs every one. Throws NO_SPACE if they take more memory than there is for them here. */
async function receiveKept(channel: Channel, store: PageStore): Promise<void> {
  channel.receivePages((run, bytes) => store.take(run, bytes));
  await store.takeHoles(receiveAll(channel));
  if (!store.hasRefused) return;
  store[Symbol.dispose](); // what is incomplete is of no use
  throw new DmigrateError("NO_SPACE", "There is no room for all memory that has to be here at the handover; free some memory");
}

/** What images refer to. */
function contentIn(store: PageStore): AheadContent {
  return {
    has: (number, pageCount) => store.hasAll(NO_PROCESS, { page: number, pageCount }),
    read: (number, into) => store.read({ process: NO_PROCESS, page: number, pageCount: into.length / PAGE_BYTES }, into),
  };
}

/**
 * Where CRIU restores something else than it dumped. The container stands still, and each of its threads has an image: reading so many
 * small files takes a twentieth of the time if nobody waits for any of them.
 */
function mendImages(folder: string): void {
  for (const name of readdirSync(folder)) {
    const mend = menderOf(name);
    if (mend === undefined) continue;
    const file = path.join(folder, name);
    const image = readFileSync(file);
    if (mend(image) > 0) writeFileSync(file, image);
  }
}

function menderOf(imageName: string): ((image: Buffer) => number) | undefined {
  if (imageName === "files.img") return mendOverdueTimers;
  if (imageName === "cgroup.img") return mendRootCgroups;
  if (/^mountpoints-\d+\.img$/.test(imageName)) return mendMaskedPaths;
  return /^core-\d+\.img$/.test(imageName) ? mendInterruptedCalls : undefined;
}
