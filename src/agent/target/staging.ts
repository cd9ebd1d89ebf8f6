/**
 * Staging: the container is started against the runtime that holds `create`, so that all slow work of the engine lies
 * before the freeze, and gets its network namespace, silenced, before there is a single task.
 *
 * The folder /run/dmigrate/expected/ID is what this shares with the scripts in src/shim, which say what lies in it.
 */
import { execFile, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { closeSync, constants, existsSync, openSync, writeSync } from "node:fs";
import { chown, mkdir, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import path from "node:path";
import { DmigrateError, messageOf } from "../../core/errors.ts";
import type { ContainerId } from "../../core/ids.ts";
import { cgroupMountOptions } from "../../criu/cgroup-mounts.ts";
import { restoreConfiguration } from "../../criu/configuration.ts";
import { lastErrors } from "../../criu/log.ts";
import { ClosedWrites } from "../../kernel/inotify.ts";
import { NetworkNamespace } from "../../kernel/netns.ts";
import { SilentNetwork } from "../../network/silence.ts";
import { setSysctls, trustNewAddresses } from "../../network/sysctl.ts";
import { parseMountinfo } from "../../kernel/mountinfo.ts";
import { removeFolder } from "../migration-folder.ts";
import { readBundle, type Bundle, type Hook } from "./bundle.ts";
import { pivotFolder } from "./pivot-folder.ts";

/** Where the runtime looks for the containers it must hold; src/shim/dmigrate-runtime has the same path. */
const EXPECTED = "/run/dmigrate/expected";

const HOLD_SCRIPT = fileURLToPath(new URL("../../shim/dmigrate-hold", import.meta.url));
const RESTORE_LIMIT_MS = 60_000;

/** Ids on this host. */
export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

/** A container that is started and held. Disposing of it before `resume` makes the start fail. */
export class Staging implements AsyncDisposable {
  readonly folder: string;
  readonly images: string;
  readonly work: string;
  /** Where the engine has mounted the container's root. */
  readonly rootfs: string;
  readonly namespace: NetworkNamespace;
  readonly silence: SilentNetwork;
  readonly #isReadOnly: boolean;
  readonly #cleanup: AsyncDisposableStack;
  readonly #gate: Fifo;
  readonly #verdict: Fifo;
  readonly #marks: Marks;
  readonly #started: Promise<void>;
  #hasFailed = false;

  private constructor(parts: {
    folder: string;
    rootfs: string;
    isReadOnly: boolean;
    namespace: NetworkNamespace;
    silence: SilentNetwork;
    cleanup: AsyncDisposableStack;
    gate: Fifo;
    verdict: Fifo;
    marks: Marks;
    started: Promise<void>;
  }) {
    this.folder = parts.folder;
    this.images = path.join(parts.folder, "images");
    this.work = path.join(parts.folder, "work");
    this.rootfs = parts.rootfs;
    this.#isReadOnly = parts.isReadOnly;
    this.namespace = parts.namespace;
    this.silence = parts.silence;
    this.#cleanup = parts.cleanup;
    this.#gate = parts.gate;
    this.#verdict = parts.verdict;
    this.#marks = parts.marks;
    this.#started = parts.started;
    this.#started.catch(() => (this.#hasFailed = true));
  }

  /**
   * Starts the container and returns when it is held. Nobody runs it, neither when this returns nor when it throws.
   * @param root the container's root, as this host counts
   * @param start asks the engine to start the container; returns when it has
   * @param criuOptions what the preflight found that this container needs
   */
  static async begin(container: ContainerId, root: Owner, criuOptions: readonly string[], start: () => Promise<void>): Promise<Staging> {
    await using cleanup = new AsyncDisposableStack();
    const folder = path.join(EXPECTED, container);
    await makeFolder(folder, root);
    let starting: Promise<void> | undefined;
    cleanup.defer(async () => {
      await starting?.catch(() => {}); // CRIU works in there until then
      if (!existsSync(path.join(folder, ORPHANED))) await removeStaged(folder);
    });
    const gate = cleanup.use(Fifo.open(path.join(folder, "gate")));
    const verdict = cleanup.use(Fifo.open(path.join(folder, "verdict")));
    cleanup.defer(() => removeFifos(folder)); // before they are closed: see `releaseHeld`
    const marks = cleanup.use(new Marks(folder));

    const started = startThrough(path.join(folder, "gate"), start);
    started.catch(() => {}); // told to whoever waits for a mark, or for the start
    starting = started;
    await marks.wait("args", started);
    const bundle = await readBundle(await readFile(path.join(folder, "args"), "utf8"));
    const mounts = parseMountinfo(await readFile("/proc/self/mountinfo", "utf8"));
    const cgroups = bundle.cgroup === undefined ? [] : cgroupMountOptions(mounts, bundle.cgroup.destination, bundle.cgroup.path);
    await writeFile(path.join(folder, "criu.conf"), restoreConfiguration(path.join(folder, "hold"), [...criuOptions, ...cgroups]));

    const namespace = cleanup.use(NetworkNamespace.create());
    const silence = cleanup.use(new SilentNetwork(namespace));
    const holder = startHolder(namespace);
    cleanup.defer(() => void holder.kill("SIGKILL"));
    {
      using _trust = trustNewAddresses(namespace);
      for (const hook of bundle.networkHooks) await runHook(hook, bundle, container, holder);
    }
    setSysctls(namespace, bundle.networkSysctls);
    await bundle.rewrite(await engineNameOf(namespace), path.join(folder, "criu.conf"));

    const { rootfs, isReadOnly } = bundle;
    return new Staging({ folder, rootfs, isReadOnly, namespace, silence, cleanup: cleanup.move(), gate, verdict, marks, started });
  }

  /** Lets the held `create` restore. Returns when every task is restored and none runs; throws RESTORE_FAILED. */
  async restore(): Promise<void> {
    using _folder = this.#isReadOnly ? pivotFolder(this.rootfs) : undefined;
    this.#gate.write("restore");
    try {
      await this.#marks.wait("restored", this.#started, AbortSignal.timeout(RESTORE_LIMIT_MS));
    } catch (error) {
      const log = await readFile(path.join(this.work, "restore.log"), "utf8").catch(() => "");
      throw new DmigrateError(
        "RESTORE_FAILED",
        `CRIU could not restore the container on the target: ${lastErrors(log) || messageOf(error)}`,
        error,
      );
    }
  }

  /**
   * Lets the restored tasks run; returns when they do. From now on disposing of this leaves the container alone.
   * @param unlocked called just before: the sockets take what arrives
   */
  async resume(unlocked: () => void): Promise<void> {
    this.#verdict.write("resume");
    await this.#marks.wait("unlocked", this.#started);
    unlocked();
    await this.#marks.wait("resumed", this.#started);
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

/** In the folder of a container that runs and lacks memory that does not come any more. */
const ORPHANED = "orphaned";

/**
 * Leaves the folder of a container that runs to what keeps its missing pages missing (src/shim/dmigrate-keep), which removes it when the
 * container has ended. Does nothing if there is no such folder.
 */
export async function orphan(container: ContainerId): Promise<void> {
  const folder = path.join(EXPECTED, container);
  if (existsSync(folder)) await writeFile(path.join(folder, ORPHANED), "");
}

/**
 * Makes the held start of a container fail that an agent before this one left, if there is one. A reader that has not opened its fifo
 * yet would wait for a writer: so the fifos are held open until they can't be found any more.
 */
export async function releaseHeld(container: ContainerId): Promise<void> {
  const folder = path.join(EXPECTED, container);
  using held = new DisposableStack();
  for (const name of FIFOS) if (existsSync(path.join(folder, name))) held.use(Fifo.open(path.join(folder, name)));
  await removeFifos(folder);
  await removeStaged(folder);
}

async function removeFifos(folder: string): Promise<void> {
  for (const name of FIFOS) await rm(path.join(folder, name), { force: true });
}

/** Where CRIU builds the mounts of a container that it restores (criu/mount.c, `create_mnt_roots`), as its log names it. */
const MOUNT_ROOTS = /\/tmp\/\.criu\.mntns\.\w{6}/;

/** Removes a container's folder, and what a restore that failed left elsewhere. */
async function removeStaged(folder: string): Promise<void> {
  const log = await readFile(path.join(folder, "work/restore.log"), "utf8").catch(() => "");
  const [mountRoots] = MOUNT_ROOTS.exec(log) ?? [];
  if (mountRoots !== undefined) await removeFolder(mountRoots);
  await removeFolder(folder);
}

const FIFOS = ["gate", "verdict"] as const;

/** Starts the container, held at the gate. A later start, whatever becomes of the migration, is an ordinary one: the gate goes. */
async function startThrough(gate: string, start: () => Promise<void>): Promise<void> {
  try {
    await start();
  } finally {
    await rm(gate, { force: true });
  }
}

async function makeFolder(folder: string, root: Owner): Promise<void> {
  // CRIU restores as the container's root, which is not this host's where user namespaces are remapped: it must be able to pass and to
  // read, and nobody else may read.
  await mkdir(folder, { recursive: true, mode: 0o711 });
  for (const name of ["images", "work"]) {
    await mkdir(path.join(folder, name), { mode: 0o700 });
    await chown(path.join(folder, name), root.uid, root.gid);
  }
  for (const name of FIFOS) await promisify(execFile)("mkfifo", ["-m", "600", path.join(folder, name)]);
  await symlink(HOLD_SCRIPT, path.join(folder, "hold"));
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
  const [code] = (await once(child, "close")) as [number | null]; // as child_process documents
  if (code !== 0)
    throw new DmigrateError("RESTORE_FAILED", `The container engine's hook ${argv0} failed: ${said.trim() || `exit code ${code}`}`);
}

/** A named pipe that this process keeps open at both ends: the reader waits, and sees the end when this process ends. */
class Fifo implements Disposable {
  readonly #fd: number;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  static open(file: string): Fifo {
    return new Fifo(openSync(file, constants.O_RDWR | constants.O_NONBLOCK));
  }

  write(line: string): void {
    writeSync(this.#fd, `${line}\n`);
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
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

  /** Returns when the file is there; throws if the start fails before, or what `signal` was aborted with. */
  async wait(name: string, started: Promise<void>, signal?: AbortSignal): Promise<void> {
    const ends: Promise<unknown>[] = [started.then(() => new Promise<never>(() => {}))];
    if (signal !== undefined) ends.push(once(signal, "abort").then(() => signal.throwIfAborted()));
    for (const end of ends) end.catch(() => {}); // the file may be there before anybody asks for these
    while (!existsSync(path.join(this.#folder, name))) await Promise.race([this.#changed.promise, ...ends]);
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
