/**
 * The folder /run/dmigrate/expected/ID that the agent shares with the scripts in src/shim, which say what lies in it: there as soon as the
 * container is, until that has all its memory or is gone.
 */
import { closeSync, constants, existsSync, openSync, readdirSync, readFileSync, readlinkSync, writeSync } from "node:fs";
import { chown, mkdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import path from "node:path";
import { DmigrateError } from "../../core/errors.ts";
import type { ContainerId, MigrationId } from "../../core/ids.ts";
import { freezerAt, type Fence, type Freezer } from "../../criu/freezer.ts";
import { removeLeftovers } from "../../criu/runc-leftovers.ts";
import { removeFolder } from "../../kernel/mounted-folder.ts";
import { killProcess } from "../../kernel/pidfd.ts";
import { makeFifo } from "../../kernel/pipes.ts";

/** Where the runtime looks for the containers it must hold; src/shim/dmigrate-runtime has the same path. */
const EXPECTED = "/run/dmigrate/expected";
const HOLD_SCRIPT = fileURLToPath(new URL("../../shim/dmigrate-hold", import.meta.url));
/** In the folder of a container that runs and lacks memory that does not come any more. */
const ORPHANED = "orphaned";
/** Where CRIU builds the mounts of a container that it restores (criu/mount.c, `create_mnt_roots`), as its log names it. */
const MOUNT_ROOTS = /\/tmp\/\.criu\.mntns\.\w{6}/;
/** The fifo from which CRIU reads its configuration. */
const CONFIGURATION = "criu.conf";
const CONFIGURATION_POLL_MS = 1;
/** How long CRIU may take to notice that what it restores was ended. It may wait for ever for a zombie that it traces itself. */
const CRIU_END_LIMIT_MS = 5_000;

/** Ids on this host. */
export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

/** The folder of one container. Disposing of it ends what was restored, unless that was given away before. */
export class StagedFolder implements AsyncDisposable {
  readonly path: string;
  readonly images: string;
  readonly work: string;
  /** The engine's start of the container, from when it was begun. */
  starting: Promise<void> | undefined;
  /** Set once the tasks may run: the container is not this folder's to end. */
  isGivenAway = false;
  readonly #gate: Fifo;

  private constructor(folder: string) {
    this.path = folder;
    this.images = path.join(folder, "images");
    this.work = path.join(folder, "work");
    this.#gate = Fifo.open(gateOf(folder));
  }

  /**
   * Of a container that was kept closed until now.
   * @param root the container's root, as this host counts
   */
  static async make(container: ContainerId, root: Owner): Promise<StagedFolder> {
    const folder = path.join(EXPECTED, container);
    for (const name of ["images", "work"]) {
      await mkdir(path.join(folder, name), { mode: 0o700 });
      await chown(path.join(folder, name), root.uid, root.gid);
    }
    for (const fifo of [gateOf(folder), path.join(folder, CONFIGURATION)]) makeFifo(fifo);
    await symlink(HOLD_SCRIPT, path.join(folder, "hold"));
    await writeFile(path.join(folder, "agent"), `${process.pid}\n`);
    const staged = new StagedFolder(folder);
    await rm(closedOf(folder)); // the gate is there
    return staged;
  }

  get holdScript(): string {
    return path.join(this.path, "hold");
  }

  /** Starts the container, held at the gate. A later start, whatever becomes of the migration, is an ordinary one: the gate goes. */
  startThroughGate(start: () => Promise<void>): Promise<void> {
    const through = async (): Promise<void> => {
      try {
        await start();
      } finally {
        await rm(gateOf(this.path), { force: true });
      }
    };
    this.starting = through();
    this.starting.catch(() => {}); // told to whoever waits for a mark, or for the start
    return this.starting;
  }

  /** Tells the scripts how restored tasks are frozen. Before the gate opens. */
  async writeFence({ control, frozen, member, outside }: Fence): Promise<void> {
    await writeFile(fenceOf(this.path), `${control}\n${frozen}\n${member}\n${outside}\n`);
  }

  /** Where CRIU is to look for its configuration. */
  get configuration(): string {
    return path.join(this.path, CONFIGURATION);
  }

  /** Has the held `create` start a restore that waits. When the fence and images/descriptors.json are there. */
  startRestore(): void {
    this.#gate.write("start");
  }

  /**
   * Lets the restore go, as soon as CRIU waits for its configuration. First comes that, then the word that this host's agent has lived to
   * give it: without, the restore is ended. If runc has ended by then, the start fails with what it said.
   * @param configuration comes at once, so that what CRIU restores is held whatever becomes of this agent
   * @param more returns what follows, for CRIU, which has that process id and waits
   */
  async openGate(configuration: string, more: (criu: () => number) => Promise<string>, signal: AbortSignal): Promise<void> {
    for (;;) {
      const pipe = openForReader(this.configuration);
      if (pipe !== undefined) {
        try {
          writeSync(pipe, configuration);
          writeSync(pipe, await more(() => waitingCriuIn(this.path)));
        } finally {
          closeSync(pipe);
        }
        return this.#gate.write("restore");
      }
      if (hasEnded(this.path, "runc")) return this.#gate.write("end");
      await sleep(CONFIGURATION_POLL_MS, undefined, { signal });
    }
  }

  /** What was not given away stays, closed, for `discardStaged`. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.isGivenAway) await close(this.path);
    await rm(gateOf(this.path), { force: true }); // before the fifo is closed: see `discardStaged`
    this.#gate[Symbol.dispose]();
    if (!this.isGivenAway) await endRestore(this.path);
    await this.starting?.catch(() => {}); // CRIU may work in there until then
    if (this.isGivenAway && !existsSync(path.join(this.path, ORPHANED))) await removeStaged(this.path);
  }
}

/**
 * Creates a container that nobody can start until `StagedFolder.make`, neither while this works nor afterwards.
 * @param migration whose container it is
 * @param create calls what it is given as soon as the container exists
 */
export async function createClosed<T>(
  migration: MigrationId,
  create: (created: (container: ContainerId) => Promise<void>) => Promise<T>,
): Promise<T> {
  const creating = path.join(EXPECTED, `creating-${migration}`);
  await mkdir(EXPECTED, { recursive: true, mode: 0o711 });
  await writeFile(creating, `${process.pid}\n`);
  const created = async (container: ContainerId): Promise<void> => {
    const folder = path.join(EXPECTED, container);
    // CRIU restores as the container's root, which is not this host's where user namespaces are remapped: it must be able to pass and to
    // read, and nobody else may read.
    await mkdir(folder, { mode: 0o711 });
    await close(folder);
    await rm(creating);
  };
  try {
    return await create(created);
  } finally {
    await rm(creating, { force: true });
  }
}

/** Removes what `createClosed` of an agent that was killed has left. */
export async function forgetCreating(migration: MigrationId): Promise<void> {
  await rm(path.join(EXPECTED, `creating-${migration}`), { force: true });
}

/**
 * Leaves the folder of a container that runs to what keeps its missing pages missing (src/shim/dmigrate-keep), which removes it when the
 * container has ended. Does nothing if there is no such folder.
 */
export async function orphan(container: ContainerId): Promise<void> {
  const folder = path.join(EXPECTED, container);
  if (existsSync(folder)) await writeFile(path.join(folder, ORPHANED), "");
}

/**
 * Removes a container that did not become this host's, and its folder: nobody can start it meanwhile. If an agent before this one left it,
 * its held start may be under way: that is made to fail, and what was restored is ended; none of its tasks runs an instruction of its own.
 * A reader that has not opened the gate yet would wait for a writer: so it is held open until it can't be found any more.
 * @param remove removes the container, which may be gone
 */
export async function discardStaged(container: ContainerId, remove: () => Promise<void>): Promise<void> {
  const folder = path.join(EXPECTED, container);
  if (existsSync(folder)) {
    await close(folder);
    using held = new DisposableStack();
    if (existsSync(gateOf(folder))) held.use(Fifo.open(gateOf(folder)));
    await rm(gateOf(folder), { force: true });
    await endRestore(folder);
  }
  await remove();
  const cgroup = cgroupIn(folder);
  if (cgroup !== undefined) await removeLeftovers(container, cgroup);
  await removeStaged(folder);
}

/** Has the runtime refuse whoever starts the container. */
async function close(folder: string): Promise<void> {
  await writeFile(closedOf(folder), "");
}

/** Ends the tasks of a container that was never given away, and CRIU if that does not notice. */
async function endRestore(folder: string): Promise<void> {
  const freezer = freezerIn(folder);
  const deadline = performance.now() + CRIU_END_LIMIT_MS;
  await freezer?.kill().catch(unlessGone);
  for (let pid = criuIn(folder); pid !== undefined; pid = criuIn(folder)) {
    if (performance.now() > deadline) killProcess(pid);
    await sleep(20);
  }
  await freezer?.kill().catch(unlessGone);
}

/** A cgroup goes with its last task. */
function unlessGone(error: unknown): void {
  if (!(error instanceof Error && "code" in error && (error.code === "ENOENT" || error.code === "ENODEV"))) throw error;
}

/** The folder of the container's cgroup, whether that is there or not; known once the restore may start. */
function cgroupIn(folder: string): string | undefined {
  const file = fenceOf(folder);
  const [control] = existsSync(file) ? readFileSync(file, "utf8").split("\n") : [];
  return control === undefined ? undefined : path.dirname(control);
}

/** The freezer of the container's cgroup, if that is there. */
export function freezerIn(folder: string): Freezer | undefined {
  const cgroup = cgroupIn(folder);
  return cgroup === undefined ? undefined : freezerAt(cgroup);
}

/** The process id of the CRIU that restores there, as long as it runs. */
function criuIn(folder: string): number | undefined {
  const pid = pidIn(folder, "criu");
  if (pid === undefined || !hasProgram(pid)) return undefined;
  return path.basename(readlinkSync(`/proc/${pid}/exe`)).startsWith("criu") ? pid : undefined;
}

/** The process id of the CRIU that waits for its configuration: runc's child. Throws RESTORE_FAILED if there is none. */
function waitingCriuIn(folder: string): number {
  const runc = pidIn(folder, "runc") ?? 0;
  const children = readdirSync(`/proc/${runc}/task`).flatMap((tid) =>
    readFileSync(`/proc/${runc}/task/${tid}/children`, "utf8").split(" ").filter(Boolean).map(Number),
  );
  const criu = children.find((pid) => hasProgram(pid) && path.basename(readlinkSync(`/proc/${pid}/exe`)).startsWith("criu"));
  if (criu === undefined)
    throw new DmigrateError("RESTORE_FAILED", "CRIU ended before its restore; the agent's log on the target has more");
  return criu;
}

/** Whether a program that the scripts have started there has ended, though nobody may have waited for it. */
function hasEnded(folder: string, name: string): boolean {
  const pid = pidIn(folder, name);
  return pid !== undefined && !hasProgram(pid);
}

/** What the scripts have noted there, if they have. */
function pidIn(folder: string, name: string): number | undefined {
  const file = path.join(folder, name);
  const pid = existsSync(file) ? readFileSync(file, "utf8").trim() : "";
  return pid === "" ? undefined : Number(pid);
}

/** A zombie has none any more. */
function hasProgram(pid: number): boolean {
  return existsSync(`/proc/${pid}/exe`);
}

/** Removes a container's folder, and what a restore that failed left elsewhere. */
async function removeStaged(folder: string): Promise<void> {
  const log = await readFile(path.join(folder, "work/restore.log"), "utf8").catch(() => "");
  const [mountRoots] = MOUNT_ROOTS.exec(log) ?? [];
  if (mountRoots !== undefined) await removeFolder(mountRoots);
  await removeFolder(folder);
}

function gateOf(folder: string): string {
  return path.join(folder, "gate");
}

function closedOf(folder: string): string {
  return path.join(folder, "closed");
}

function fenceOf(folder: string): string {
  return path.join(folder, "fence");
}

/** Opens a named pipe that somebody reads; undefined if nobody does. */
function openForReader(file: string): number | undefined {
  try {
    return openSync(file, constants.O_WRONLY | constants.O_NONBLOCK);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENXIO") return undefined;
    throw error;
  }
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
