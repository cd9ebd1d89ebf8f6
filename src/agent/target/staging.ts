/**
 * Staging: the container is started against the runtime that holds `create`, so that all slow work of the engine lies
 * before the freeze, and gets its network namespace, silenced, before there is a single task.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import path from "node:path";
import { DmigrateError, messageOf } from "../../core/errors.ts";
import type { ContainerId } from "../../core/ids.ts";
import type { Step } from "../../core/migration.ts";
import { cgroupMountOptions, cgroupRootOptions } from "../../criu/cgroups.ts";
import { inheritedFiles, restoreConfiguration } from "../../criu/configuration.ts";
import { fenceOf, type Fence, type Freezer } from "../../criu/freezer.ts";
import { restoreSteps } from "../../criu/log-steps.ts";
import { killedProgram, lastErrors, lastLines } from "../../criu/log.ts";
import { keepMovesQuick } from "../../kernel/cgroup-moves.ts";
import { giveDescriptors } from "../../kernel/give-descriptors.ts";
import { ClosedWrites } from "../../kernel/inotify.ts";
import { NetworkNamespace } from "../../kernel/netns.ts";
import { SilentNetwork } from "../../network/silence.ts";
import { setSysctls, trustNewAddresses } from "../../network/sysctl.ts";
import { parseMountinfo } from "../../kernel/mountinfo.ts";
import { readBundle, type Bundle, type Hook } from "./bundle.ts";
import { pivotFolder } from "./pivot-folder.ts";
import { freezerIn, StagedFolder, type Owner } from "./staged-folder.ts";

const RESTORE_LIMIT_MS = 60_000;
const GIVEN_UP_POLL_MS = 500;
/** How long an engine may take to regard a restored container as created: some milliseconds. */
const ENGINE_LIMIT_MS = 1_000;
/** What CRIU logs then (criu/cr-restore.c, `restore_root_task`). */
const GIVEN_UP = "Killing processes because of failure on restore";

/** A container that is started and held. Disposing of it before `resume` ends it. */
export class Staging implements AsyncDisposable {
  /** Where the engine has mounted the container's root. */
  readonly rootfs: string;
  readonly namespace: NetworkNamespace;
  readonly silence: SilentNetwork;
  readonly #isReadOnly: boolean;
  readonly #folder: StagedFolder;
  readonly #cleanup: AsyncDisposableStack;
  readonly #marks: Marks;
  readonly #started: Promise<void>;
  /** CRIU's. */
  readonly #configuration: string;
  readonly #fence: Fence;
  #hasFailed = false;
  /** Once a restore is started and until it is done. */
  #quickMoves: Disposable | undefined;

  private constructor(parts: {
    bundle: Bundle;
    namespace: NetworkNamespace;
    silence: SilentNetwork;
    folder: StagedFolder;
    cleanup: AsyncDisposableStack;
    marks: Marks;
    started: Promise<void>;
    configuration: string;
    fence: Fence;
  }) {
    this.rootfs = parts.bundle.rootfs;
    this.namespace = parts.namespace;
    this.silence = parts.silence;
    this.#isReadOnly = parts.bundle.isReadOnly;
    this.#folder = parts.folder;
    this.#cleanup = parts.cleanup;
    this.#marks = parts.marks;
    this.#configuration = parts.configuration;
    this.#fence = parts.fence;
    this.#started = parts.started.catch(async (error: unknown) => {
      this.#hasFailed = true;
      throw this.#quickMoves !== undefined ? await this.#restoreFailed(error) : error;
    });
    this.#started.catch(() => {}); // told to whoever waits for it
  }

  /**
   * Starts the container and returns when it is held. Nobody runs it, neither when this returns nor when it throws.
   * @param root the container's root, as this host counts
   * @param start asks the engine to start the container; returns when it has
   * @param criuOptions what the preflight found that this container needs
   */
  static async begin(container: ContainerId, root: Owner, criuOptions: readonly string[], start: () => Promise<void>): Promise<Staging> {
    await using cleanup = new AsyncDisposableStack();
    const folder = cleanup.use(await StagedFolder.make(container, root));
    const marks = cleanup.use(new Marks(folder.path));

    const started = folder.startThroughGate(start);
    await marks.wait("args", started);
    const bundle = await readBundle(await readFile(path.join(folder.path, "args"), "utf8"));
    const mounts = parseMountinfo(await readFile("/proc/self/mountinfo", "utf8"));
    const fence = await fenceOf(bundle.cgroup);
    await folder.writeFence(fence);
    const cgroups = [
      ...cgroupRootOptions(fence.version, bundle.cgroup),
      ...(bundle.cgroupsSeenAt === undefined ? [] : cgroupMountOptions(mounts, bundle.cgroupsSeenAt, bundle.cgroup)),
    ];
    const configuration = restoreConfiguration(folder.holdScript, [...criuOptions, ...cgroups]);

    const namespace = cleanup.use(NetworkNamespace.create());
    const silence = cleanup.use(new SilentNetwork(namespace));
    const holder = startHolder(namespace);
    cleanup.defer(() => void holder.kill("SIGKILL"));
    {
      await using _trust = trustNewAddresses(namespace);
      for (const hook of bundle.networkHooks) await runHook(hook, bundle, container, holder);
    }
    setSysctls(namespace, bundle.networkSysctls);
    await bundle.rewrite(await engineNameOf(namespace), folder.configuration);

    return new Staging({ bundle, namespace, silence, folder, cleanup: cleanup.move(), marks, started, configuration, fence });
  }

  /** The folder that is there as long as restored tasks may lack pages, whoever looks after them. */
  get folder(): string {
    return this.#folder.path;
  }

  /** The folder of the cgroup that restored tasks are in. */
  get cgroup(): string {
    return this.#freezer().folder;
  }

  get images(): string {
    return this.#folder.images;
  }

  get work(): string {
    return this.#folder.work;
  }

  /** Has runc and CRIU started, which then wait. Once the first of the images, `descriptors.json`, is there. */
  startRestore(): void {
    if (this.#quickMoves !== undefined) return;
    this.#quickMoves = this.#cleanup.use(keepMovesQuick(this.#fence.outside));
    this.#folder.startRestore();
  }

  /**
   * Lets the restore go. Returns when every task is restored, and frozen; throws RESTORE_FAILED.
   * @param given descriptors of files that take the place of others, by the names of those in the images
   */
  async restore(given: ReadonlyMap<string, number> = new Map()): Promise<void> {
    using _pivot = this.#isReadOnly ? pivotFolder(this.rootfs) : undefined;
    this.startRestore();
    using _quick = this.#quickMoves;
    const over = new AbortController();
    try {
      const signal = AbortSignal.any([over.signal, AbortSignal.timeout(RESTORE_LIMIT_MS)]);
      const restored = this.#marks.wait("restored", this.#started, signal);
      restored.catch(() => {}); // told below
      const give = async (criu: () => number): Promise<string> => {
        if (given.size === 0) return "";
        const fds = await giveDescriptors(criu(), [...given.values()]);
        return inheritedFiles(new Map([...given.keys()].map((name, at) => [fds[at] ?? -1, name])));
      };
      await Promise.race([this.#folder.openGate(this.#configuration, give, signal), restored]);
      await Promise.race([restored, this.#givenUp(over.signal)]);
      await this.#freezer().freeze();
    } catch (error) {
      throw this.#hasFailed ? error : await this.#restoreFailed(error);
    } finally {
      over.abort();
    }
  }

  async #restoreFailed(reason: unknown): Promise<DmigrateError> {
    const log = await this.#restoreLog();
    const killed = killedProgram(messageOf(reason));
    return new DmigrateError(
      "RESTORE_FAILED",
      killed === undefined
        ? `CRIU could not restore the container on the target: ${lastErrors(log) || messageOf(reason)}; the agent's log there has more`
        : `${killed} was killed on the target while it restored the container; \`dmesg\` there may say why, then migrate again`,
      new Error(`CRIU's log ends with:\n${lastLines(log)}`, { cause: reason }),
    );
  }

  /** Rejected when CRIU has given up. It may not end then: it waits for its tasks, among them zombies that it traces itself. */
  async #givenUp(over: AbortSignal): Promise<never> {
    for (;;) {
      await sleep(GIVEN_UP_POLL_MS, undefined, { signal: over });
      if ((await this.#restoreLog()).includes(GIVEN_UP)) throw new Error("it ended what it had restored");
    }
  }

  /** Where CRIU's time went, in milliseconds before the tasks were restored. */
  async restoreSteps(): Promise<readonly Step[]> {
    return restoreSteps(await this.#restoreLog());
  }

  #restoreLog(): Promise<string> {
    return readFile(path.join(this.work, "restore.log"), "utf8").catch(() => "");
  }

  /**
   * Lets the restored tasks run; returns when they do. From now on disposing of this leaves the container alone. The engine does not learn
   * of the end of a task before it has regarded the container as created, so that is waited for; but an engine that hangs keeps nobody.
   */
  async resume(): Promise<void> {
    this.#folder.isGivenAway = true;
    await this.#marks.wait("started", this.#started, AbortSignal.timeout(ENGINE_LIMIT_MS)).catch(() => {});
    await this.#freezer().thaw();
  }

  #freezer(): Freezer {
    const freezer = freezerIn(this.folder);
    if (freezer === undefined) throw new DmigrateError("RESTORE_FAILED", "The restored container has no cgroup that can be frozen");
    return freezer;
  }

  /** True if the container's first task is there. Of a restored one. */
  get isAlive(): boolean {
    return existsSync(`/proc/${readFileSync(path.join(this.folder, "restored"), "utf8").trim()}`);
  }

  /** True if the start has failed by now: nobody can run the container here any more. */
  get hasFailed(): boolean {
    return this.#hasFailed;
  }

  /** Returns when the engine regards the container as started; throws if it ended before, or was never let go. */
  started(): Promise<void> {
    return this.#started;
  }

  /** True once this has been disposed of. */
  get isOver(): boolean {
    return this.#cleanup.disposed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#cleanup.disposeAsync();
  }
}

/** Where Docker keeps the network namespaces of its containers, each as long as its container runs. */
const SANDBOXES = "/run/docker/netns";

/**
 * The path by which the engine knows the namespace, now that its hook has run. It stays in the container's configuration, and a later
 * dump of the container looks there: so it must not be one of ours.
 */
async function engineNameOf(namespace: NetworkNamespace): Promise<string> {
  for (const name of await readdir(SANDBOXES)) {
    const file = path.join(SANDBOXES, name);
    if (namespace.isAt(file)) return file;
  }
  throw new DmigrateError(
    "RESTORE_FAILED",
    `Docker's network hook did not put the new network namespace into ${SANDBOXES}; this engine is of a kind this release does not know`,
  );
}

/** A process in the namespace, by which engines' hooks and runc find it. It ends with this one: its input does. */
function startHolder(namespace: NetworkNamespace): ChildProcess {
  return namespace.run(() => spawn("cat", { stdio: ["pipe", "ignore", "ignore"] }));
}

/** Runs a hook as runc would: the container's state on its standard input. */
async function runHook(hook: Hook, bundle: Bundle, id: ContainerId, holder: ChildProcess): Promise<void> {
  const [argv0, ...args] = hook.args ?? [hook.path];
  const env = Object.fromEntries(
    (hook.env ?? []).map((entry) => [entry.slice(0, entry.indexOf("=")), entry.slice(entry.indexOf("=") + 1)]),
  );
  const child = spawn(hook.path, args, { argv0, env, stdio: ["pipe", "ignore", "pipe"] });
  let said = "";
  child.stderr.on("data", (chunk: Buffer) => (said += chunk.toString()));
  child.stdin.end(JSON.stringify({ ociVersion: "1.0.2", id, status: "creating", pid: holder.pid, bundle: bundle.folder }));
  const [code] = (await once(child, "close").catch((error: unknown) => {
    throw hookFailed(argv0 ?? hook.path, `${messageOf(error)}, so the engine that it belongs to has ended`);
  })) as [number | null]; // as child_process documents
  if (code !== 0) throw hookFailed(argv0 ?? hook.path, said.trim() || `exit code ${code}`);
}

/** A dockerd that was killed leaves its containers' namespaces, and in them their MAC addresses, to its successor. */
function hookFailed(name: string, reason: string): DmigrateError {
  const remedy = reason.includes("address already in use")
    ? "; a Docker Engine that was killed has left it: its successor cleans up within a minute or two, migrate again then"
    : "";
  return new DmigrateError("RESTORE_FAILED", `The container engine's hook ${name} failed: ${reason}${remedy}`);
}

/** Only one that does not know our runtime any more, or another one in its place, starts what is closed. */
function startedByOthers(): DmigrateError {
  const text =
    "The target's Docker Engine has started the container without its runtime dmigrate; see `docker info` there, and migrate again";
  return new DmigrateError("RESTORE_FAILED", text);
}

/** Files that the scripts write to say how far they are. */
class Marks implements Disposable {
  readonly #folder: string;
  readonly #writes: ClosedWrites;
  #changed = Promise.withResolvers<void>();

  constructor(folder: string) {
    this.#folder = folder;
    this.#writes = new ClosedWrites(folder);
    void this.#watch();
  }

  /** Returns when the file is there; throws if the start fails or is over before, or what `signal` was aborted with. */
  async wait(name: string, started: Promise<void>, signal?: AbortSignal): Promise<void> {
    const isThere = (): boolean => existsSync(path.join(this.#folder, name));
    const over = started.then(() => {
      if (!isThere()) throw startedByOthers();
    });
    const ends: Promise<unknown>[] = [over];
    if (signal !== undefined) ends.push(once(signal, "abort").then(() => signal.throwIfAborted()));
    for (const end of ends) end.catch(() => {}); // the file may be there before anybody asks for these
    while (!isThere()) await Promise.race([this.#changed.promise, ...ends]);
  }

  async #watch(): Promise<void> {
    for await (const _ of this.#writes) {
      this.#changed.resolve();
      this.#changed = Promise.withResolvers<void>();
    }
  }

  [Symbol.dispose](): void {
    this.#writes.close();
  }
}
