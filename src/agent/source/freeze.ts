/**
 * The freeze at the source: what is made ready for it while the container runs, and how the container is stopped and dumped.
 */
import { stat } from "node:fs/promises";
import { PassThrough } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError } from "../../core/errors.ts";
import { dumpConfiguration } from "../../criu/configuration.ts";
import { freezerOf, type Freezer } from "../../criu/freezer.ts";
import { sendImages } from "../../criu/image-stream.ts";
import { prepareDump, type LazyDump, type PreparedDump } from "../../criu/lazy-dump.ts";
import { PageDecoys } from "../../criu/page-decoy.ts";
import { lazyPageCount, readLazyRanges } from "../../criu/pagemap.ts";
import { thawAfterDump } from "../../criu/thaw.ts";
import { writeWrittenPages } from "../../criu/written-pages.ts";
import { describe } from "../../docker/describe.ts";
import { writeDescription } from "../../docker/description.ts";
import type { EngineNews } from "../../docker/engine.ts";
import type { RestartPolicy } from "../../docker/inspect.ts";
import { NEVER_RESTART, setRestartPolicy } from "../../docker/lifecycle.ts";
import { liesOnHost, volumeIdentity } from "../../docker/volumes.ts";
import { standingMappings } from "../../kernel/maps.ts";
import { NetworkNamespace } from "../../kernel/netns.ts";
import { pidsIn, stoppedIn, tasksIn } from "../../kernel/tasks.ts";
import { pageCountOf, type PageRange } from "../../memory/page-ranges.ts";
import { RecentWrites } from "../../memory/tracking/recent-writes.ts";
import type { WrittenPages } from "../../memory/tracking/tracker.ts";
import type { Trackers } from "../../memory/tracking/trackers.ts";
import { HeldNetwork } from "../../network/hold.ts";
import { unsettledCount } from "../../network/unsettled.ts";
import { CHANNELS } from "../channels.ts";
import { collectGarbage } from "../garbage.ts";
import { sendAll, type Channel } from "../link.ts";
import { migrationFolder } from "../migration-folder.ts";
import { openPageChannels, type PageChannels } from "../page-channels.ts";
import type { ContentAhead } from "./content-ahead.ts";
import type { LastRound, SourceFiles } from "./files.ts";
import type { Compared } from "./handed-over.ts";
import { HiddenMemory } from "./hidden-memory.ts";
import type { MemoryAhead } from "./memory-ahead.ts";
import { PageServing } from "./page-serving.ts";
import type { SourceScope } from "./scope.ts";
import type { SharedAhead } from "./shared-ahead.ts";
import { restoreRestartPolicy } from "./policy.ts";
import { strangersIn } from "./strangers.ts";

const STAND_STILL_RETRY_MS = 20;
/** How long to wait for the end of what came in by `docker exec`, and of health probes. */
const STRANGERS_LIMIT_MS = 10_000;
/** How long to wait for a moment without connections that no process holds. */
const UNSETTLED_LIMIT_MS = 2_000;

/** What is there when all that can be copied ahead has been. */
export interface Copied {
  readonly files: SourceFiles;
  /** If that is copied ahead. */
  readonly memory?: MemoryAhead;
  /** The memory that processes share, as far as that is. */
  readonly shared: SharedAhead;
  /** The content of what is left to CRIU. */
  readonly content: ContentAhead;
  readonly trackers: Trackers;
  /** What the preflight found that this container needs. */
  readonly criuOptions: readonly string[];
}

/** What is there once the container is frozen and dumped. */
export interface Frozen extends Compared {
  readonly held: HeldNetwork;
  /** What the lazy pages cross by. */
  readonly serving: PageServing;
  /** The file that is the container's /etc/hosts. */
  readonly hostsFile: string;
  /** Fulfilled when what changed last of shared memory has crossed: the target waits for it before it has restored. */
  readonly sharedSent: Promise<void>;
  /** How many pages are still to cross, about. Throws if CRIU's images can't be read any more. */
  readonly missingPageCount: () => number;
}

/** What is ready before the freeze, and waits for it. */
interface Parts {
  readonly dump: PreparedDump;
  readonly decoys: PageDecoys;
  readonly shared: HiddenMemory;
  readonly written: WrittenPages;
  readonly lastRound: LastRound;
  readonly images: Sending;
  readonly pageChannels: PageChannels;
  readonly hostsFile: string;
  readonly held: HeldNetwork;
  readonly freezer: Freezer;
}

/** CRIU's images on their way. */
interface Sending {
  readonly channel: Channel;
  readonly sent: Promise<void>;
}

/** The freeze of one migration. */
export class Freeze {
  readonly #scope: SourceScope;
  readonly #parts: Parts;
  #running: LazyDump | undefined;
  #wasToldToEnd = false;
  #wasChanged = false;
  #changedLate: (action: string) => void = () => {};
  #isPaused = false;
  #isDumping = false;
  #hasEngineEnded = false;
  #serving: PageServing | undefined;
  readonly #signals = new PassThrough({ objectMode: true });

  private constructor(scope: SourceScope, parts: Parts) {
    this.#scope = scope;
    this.#parts = parts;
  }

  /**
   * Makes everything ready that can be before it; the container runs. Throws PREFLIGHT_BLOCKED if it is not any more what it was when
   * the migration began.
   */
  static async prepare(scope: SourceScope, { files, memory, shared, content, trackers, criuOptions }: Copied): Promise<Freeze> {
    const { context, engine, open, undo, subject } = scope;
    const { id, description, initPid, request } = subject;
    await assertUnchanged(scope);
    const folder = migrationFolder(context.config, id);
    const configuration = dumpConfiguration((await stat(`/proc/${initPid}/ns/net`)).ino, criuOptions);
    const freezer = await freezerOf(initPid);
    const written = memory?.rounds ?? open.use(await RecentWrites.begin(pidsIn(freezer.folder), trackers.note));
    const dump = open.use(await prepareDump({ container: description.id, initPid, folder, configuration }));
    const decoys = open.use(new PageDecoys());
    if (PageDecoys.isPossible) await decoys.prepare(pidsIn(freezer.folder), dump.show);
    const hidden = open.use(await HiddenMemory.prepare(scope, shared.rounds, dump.show));
    const images = await sendAsTheyClose(scope, dump, decoys, content);
    // Not cut by the loss of the target: after the commit it must outlive a link that is gone for a while.
    const pageChannels = await openPageChannels(async (kind) => (await context.link.open(request.target, id, kind)).raw());
    undo.defer(() => Object.values(pageChannels).forEach((channel) => channel.destroy()));
    const lastRound = await files.prepareLast();
    const network = open.use(new AsyncDisposableStack());
    const namespace = network.use(NetworkNamespace.open(`/proc/${initPid}/ns/net`));
    const held = network.use(new HeldNetwork(namespace));
    const { HostsPath: hostsFile } = await engine.inspectContainer(description.id);
    const freeze = new Freeze(scope, { dump, decoys, shared: hidden, written, lastRound, images, pageChannels, hostsFile, held, freezer });
    scope.count("memory", () => freeze.lateBytes);

    const { RestartPolicy: restartPolicy } = description.hostConfig;
    const volumes = await Promise.all(
      description.volumes.filter(liesOnHost).map(async ({ name }) => ({ name, identity: await volumeIdentity(engine, name) })),
    );
    const sinceMs = Date.now();
    scope.note({ frozen: { initPid, restartPolicy, pagePort: dump.port, keepSource: request.keepSource, sinceMs, hostsFile }, volumes });
    undo.defer(() => restoreRestartPolicy(scope, restartPolicy, () => ({ sinceMs, hasEngineEnded: freeze.#hasEngineEnded })));
    undo.defer(() => network.disposeAsync()); // a container that has ended can't be started as long as its MAC address is in use
    await setRestartPolicy(engine, description.id, NEVER_RESTART);
    const listening = new AbortController();
    open.defer(() => {
      listening.abort();
      freeze.#signals.end();
    });
    const told = (news: EngineNews): void => {
      switch (news.kind) {
        case "change":
          freeze.#wasChanged = true;
          freeze.#changedLate(news.action);
          return;
        case "pause":
          return freeze.#paused();
        case "unpause":
          freeze.#isPaused = false;
          return;
        case "engine-end":
          freeze.#hasEngineEnded = true;
          freeze.#wasToldToEnd = true;
          return;
        case "signal":
          freeze.#wasToldToEnd = true;
          freeze.#signals.write(news.signal);
      }
    };
    await engine.watchRequests(description.id, told, listening.signal);
    await assertUnchanged(scope, NEVER_RESTART);
    return freeze;
  }

  /** What has crossed of memory because the target asked for it. */
  get lateBytes(): number {
    return this.#serving?.sentBytes ?? 0;
  }

  /** From before the freeze on: whether somebody has asked this host's engine to end the container, or to end. */
  get wasToldToEnd(): boolean {
    return this.#wasToldToEnd;
  }

  /** From before the freeze on until the migration is over: by number, what somebody has asked this host's engine to send the container. */
  get signals(): AsyncIterable<number> {
    return this.#signals;
  }

  /**
   * From now on the container is the target's.
   * @param changedLate is called when somebody asks this host's engine to change what is left of it here
   */
  handedOver(changedLate: (action: string) => void): void {
    this.#changedLate = changedLate;
  }

  /** Throws CONTAINER_CHANGED if somebody has asked this host's engine to change or pause the container, from before the freeze on. */
  refuseChanges(): void {
    if (this.#wasChanged) throw changed(this.#scope.subject.description.name, "while it was frozen");
  }

  /** Stops the container and dumps it. When this returns the target has all it needs to restore, and nobody runs the container. */
  async run(): Promise<Frozen> {
    const { timeline, undo, cancelled } = this.#scope;
    const { dump, decoys, shared, written, lastRound, images, pageChannels, hostsFile, held, freezer } = this.#parts;
    collectGarbage();
    cancelled.throwIfAborted();
    this.refuseChanges();

    let thaw = (): Promise<void> => freezer.thaw();
    undo.defer(async () => {
      if (this.#isPaused) return;
      await thaw();
      timeline.resumed();
    });
    undo.defer(() => void held.release());
    const tasks = await this.#standStill();

    this.#isDumping = true;
    const running = dump.start();
    this.#running = running;
    const ready = timeline.step("dump", () => running.ready).finally(() => (this.#isDumping = false));
    ready.catch(() => {}); // told below
    thaw = () => thawAfterDump(freezer);
    undo.defer(() => running.end());
    const told = await timeline.step("list pages", () => {
      decoys.list();
      return written.told(tasks);
    });
    writeWrittenPages(dump.images, told);
    const sharedSent = shared.send(dump.images, tasks);
    sharedSent.catch(() => {}); // told in the handover
    const sendingFiles = timeline.step("last file difference", () => lastRound.send());
    sendingFiles.catch(() => {}); // told below
    await ready;
    // CRIU has thawed the cgroup and stops the tasks by itself: without this they would run if it were killed.
    const fencing = timeline.step("fence", () => freezer.fence());
    fencing.catch(() => {}); // told below
    await timeline.step("send last images", async () => {
      dump.closedImages.close();
      await images.sent;
      await images.channel.close();
    });
    await Promise.all([sendingFiles, fencing]);
    this.refuseChanges();
    const serving = new PageServing(tasks, pageChannels);
    this.#serving = serving;
    const missingPageCount = (): number => {
      if (written.isRest) return pageCountOf([...told.values()].flat());
      return lazyPageCount(readLazyRanges(dump.images)) + decoys.pageCount;
    };
    const lazyRanges = (): Map<number, PageRange[]> => decoys.lazyRanges(dump.images);
    return { held, serving, hostsFile, sharedSent, missingPageCount, images: dump.images, lazyRanges, tasks };
  }

  /**
   * Somebody has paused the container, which an engine can while CRIU has its cgroup thawed. Then CRIU waits for tasks that it holds
   * itself: until it is done they may be thawed, it keeps them stopped.
   */
  #paused(): void {
    this.#wasChanged = true;
    this.#isPaused = true;
    if (!this.#isDumping) return;
    const { freezer } = this.#parts;
    freezer.thaw().catch((error: unknown) => this.#scope.logWarning(error, "a dump waits for a paused container"));
  }

  /** Enters in the time line where CRIU's time went. */
  async explainDump(): Promise<void> {
    this.#scope.timeline.compose("dump", (await this.#running?.steps()) ?? [], "endMs");
  }

  /** Ends CRIU, if it has begun. The tasks stay as they are, frozen. */
  async endDump(): Promise<void> {
    await this.#running?.end();
    this.#parts.shared[Symbol.dispose](); // else something of the container's would stay in use
  }

  /**
   * Freezes the tasks and holds their network, at a moment at which CRIU sees all that there is to move: other moments are let pass.
   * When this returns, or throws, nobody runs the container.
   * @returns process ids of the tasks on this host by those inside the container
   */
  async #standStill(): Promise<ReadonlyMap<number, number>> {
    const { timeline, cancelled, subject } = this.#scope;
    const { freezer, held, decoys, shared } = this.#parts;
    const beganAtMs = timeline.now();
    for (;;) {
      refuseStopped(freezer.folder);
      const startMs = timeline.froze();
      await freezer.freeze();
      const frozenMs = timeline.now();
      held.lock();
      const lockedMs = timeline.now();
      const tasks = tasksIn(freezer.folder);
      const read = standingMappings();
      const [unsettled] = await Promise.all([unsettledCount(subject.initPid), decoys.update(tasks, read), shared.update(tasks, read)]);
      const strangers = strangersIn(freezer.folder, subject.initPid);
      const waitedMs = startMs - beganAtMs;
      if (strangers.length === 0 && (unsettled === 0 || waitedMs > UNSETTLED_LIMIT_MS)) {
        if (unsettled > 0) this.#scope.warn(unsettledWarning(unsettled));
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
      cancelled.throwIfAborted();
      await sleep(STAND_STILL_RETRY_MS);
      this.refuseChanges();
    }
  }
}

/** @param restartPolicy what it has by now */
async function assertUnchanged(
  { engine, subject: { description } }: SourceScope,
  restartPolicy: RestartPolicy = description.hostConfig.RestartPolicy,
): Promise<void> {
  const { id, name, hostConfig } = description;
  const { State } = await engine.inspectContainer(id);
  const now = writeDescription(await describe(engine, id));
  const isChanged = now !== writeDescription({ ...description, hostConfig: { ...hostConfig, RestartPolicy: restartPolicy } });
  if (!State.Paused && !isChanged) return;
  const what = isChanged ? "changed (`docker update`, `rename`, `network`)" : "paused";
  throw changed(name, "while its migration copied", what);
}

/** What somebody may have done to a container. */
const CHANGES = "changed (`docker update`, `rename`, `network`, `cp`) or paused";

/** The error of a container that is not what has been described to the target. */
function changed(name: string, when: string, what = CHANGES): DmigrateError {
  return new DmigrateError("CONTAINER_CHANGED", `${name} was ${what} ${when}; migrate again with it as it is to be`);
}

/** Sends images as CRIU closes them, amended for the pages that decoys hid from it, and without the content that was copied ahead. */
async function sendAsTheyClose(
  scope: SourceScope,
  { images, closedImages }: PreparedDump,
  decoys: PageDecoys,
  content: ContentAhead,
): Promise<Sending> {
  const channel = await scope.channel(CHANNELS.images, "metadata");
  const options = { amended: (name: string) => decoys.amended(images, name), known: (bytes: Uint8Array) => content.known(bytes) };
  const sent = sendAll(channel, sendImages(images, closedImages, options));
  sent.catch(() => {}); // told in the freeze
  return { channel, sent };
}

/** Throws DUMP_FAILED if a process was stopped since the preflight. */
function refuseStopped(cgroup: string): void {
  const [pid] = stoppedIn(cgroup);
  if (pid === undefined) return;
  const remedy = `let it go on (\`kill -CONT ${pid}\`), then migrate again`;
  throw new DmigrateError("DUMP_FAILED", `Process ${pid} of the container has been stopped or is traced, which CRIU can't dump; ${remedy}`);
}

/** A process that `docker exec` or a health check started can't be dumped. */
function strangersStay(pids: readonly number[]): DmigrateError {
  const [who, them] = pids.length === 1 ? ["Process", "does not end; end it"] : ["Processes", "do not end; end them"];
  const text = `${who} ${pids.join(", ")} came into the container by \`docker exec\` or a health check and ${them}, then migrate again`;
  return new DmigrateError("DUMP_FAILED", text);
}

function unsettledWarning(count: number): string {
  return (
    `Connections that did not come along: ${count}, which the container had not accepted for ${UNSETTLED_LIMIT_MS / 1000} s or had ` +
    "closed with something left to send; their clients notice when they send something"
  );
}
