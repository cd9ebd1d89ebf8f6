/**
 * The lazy dump of a frozen container: runc checkpoint writes all but the lazy pages and then holds the tasks, ready to serve those, which
 * nobody asks it for: the agent reads them itself.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { closeSync, constants, createReadStream, openSync, type ReadStream } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import path from "node:path";
import { DmigrateError } from "../core/errors.ts";
import type { ContainerId } from "../core/ids.ts";
import type { Step } from "../core/migration.ts";
import { ClosedWrites } from "../kernel/inotify.ts";
import { makeFifo } from "../kernel/pipes.ts";
import { failWriting } from "./image-stream.ts";
import { dumpSteps } from "./log-steps.ts";
import { killedProgram, lastErrors } from "./log.ts";
import { RUNC_ROOTS, runcFoldersOf } from "./runc-folders.ts";
import { withConfiguration } from "./runc-state.ts";
import { findProcess, isCriuOf, StallWatch, whenStalled } from "./stalled-dump.ts";

/** How long CRIU may take to let go of the tasks once its peer has left. */
const RELEASE_LIMIT_MS = 30_000;
const RELEASE_RETRY_MS = 20;
const WHEN_TOLD = fileURLToPath(new URL("../shim/when-told", import.meta.url));

/** What to dump and where to. */
export interface LazyDumpRequest {
  readonly container: ContainerId;
  /** Of its first task. */
  readonly initPid: number;
  /** A folder of this dump alone. */
  readonly folder: string;
  /** Lines of a CRIU configuration file. */
  readonly configuration: string;
}

/** Has CRIU see a file below /proc of a decoy as that of a task. */
export type ShowDecoy = (file: "pagemap" | "map_files", decoyPid: number, pid: number) => void;

/** A dump that has all it needs and has not begun: nothing that can be done before the freeze is left for it. */
export interface PreparedDump extends AsyncDisposable {
  /** The folder of the image files. */
  readonly images: string;
  /** The names of those, each as it is complete. To be closed when the dump is ready. */
  readonly closedImages: ClosedWrites;
  /** The page server's port on the loopback interface. */
  readonly port: number;
  /** Has CRIU see a file below /proc of a decoy as that of a task: before `start`. */
  show: ShowDecoy;
  /**
   * Begins the dump. The container's cgroup must be frozen already: then CRIU finds it so, does not poll, and leaves it frozen
   * whatever happens (docs/decisions/0002-fence.md). When this returns or throws, the source holds the container, frozen.
   */
  start(): LazyDump;
}

/** A dump that is under way. */
export interface LazyDump {
  /** Where CRIU's time went, in milliseconds before `ready` was fulfilled. */
  steps(): Promise<readonly Step[]>;
  /** Fulfilled when all images are written and the page server listens; DUMP_FAILED if CRIU ends before. */
  readonly ready: Promise<void>;
  /**
   * Ends the dump; returns when CRIU ended and the tasks are frozen, and nothing else (docs/decisions/0002-fence.md). CRIU must never be
   * killed: it would leave its own code in the tasks. So this lets it come to the point where it serves pages, and then breaks off.
   */
  end(): Promise<void>;
}

/**
 * Makes everything ready for a lazy dump: runc and CRIU have started, and wait for CRIU's configuration, the last thing that they read
 * before they look at the container (src/shim/when-told). Disposing of what it returns leaves a dump that has begun alone.
 */
export async function prepareDump({ container, initPid, folder, configuration }: LazyDumpRequest): Promise<PreparedDump> {
  const [images, work, root] = [path.join(folder, "images"), path.join(folder, "work"), path.join(folder, "runc")];
  const [configurationFile, configurationPipe] = [path.join(folder, "criu.conf"), path.join(folder, "criu.conf.pipe")];
  try {
    for (const each of [images, work]) await mkdir(each, { recursive: true, mode: 0o700 });
    await writeFile(configurationFile, configuration, { mode: 0o600 });
    makeFifo(configurationPipe);
    await copyState(container, root, configurationPipe);
  } catch (error) {
    failWriting(folder, error);
  }
  const log = path.join(work, "dump.log");
  const port = await freePort();
  const argv = [
    // The container stands still meanwhile: CRIU goes before whatever else this host does.
    ...["-n", "-20", "unshare", "--mount", "sh", WHEN_TOLD, configurationFile, configurationPipe],
    ...["runc", "--root", root, "checkpoint", "--image-path", images, "--work-path", work],
    ...["--leave-running", "--lazy-pages", "--page-server", `127.0.0.1:${port}`, "--status-fd", "3"],
    ...["--tcp-established", "--file-locks", container],
  ];
  const closedImages = new ClosedWrites(images);
  const status = StatusPipe.open(path.join(folder, "status"));
  const child = spawn("nice", argv, { stdio: ["pipe", "ignore", "pipe", status.writeEnd], detached: true });
  status.closeWriteEnd();
  child.stdin?.on("error", () => {}); // it ended already: `ready` tells
  const { ready: written, ended } = follow(child, log, status);
  const begin = (): LazyDump => {
    child.stdin?.end("go\n");
    const ready = unlessStalled(written, initPid);
    ready.catch(() => {}); // whoever waits for it gets it; nobody may be waiting yet
    return { ready, end: () => end(ready), steps: async () => dumpSteps(await readFile(log, "utf8").catch(() => "")) };
  };
  const end = async (ready: Promise<void>): Promise<void> => {
    await ready.catch(() => {});
    await dumpEnded({ folder, initPid, port });
    await ended;
  };
  return {
    images,
    closedImages,
    port,
    show: (file, decoyPid, pid) => void child.stdin?.write(`show ${file} ${decoyPid} ${pid}\n`),
    start: begin,
    [Symbol.asyncDispose]: async () => {
      closedImages.close();
      if (child.stdin?.writableEnded === true) return;
      child.stdin?.end();
      await ended;
    },
  };
}

/**
 * Copies runc's state of a container, with CRIU's configuration for it in another place: runc has no option for that.
 * @param root what to pass to runc as `--root`
 */
async function copyState(container: ContainerId, root: string, configurationFile: string): Promise<void> {
  const state = withConfiguration(await stateOf(container), configurationFile);
  await mkdir(path.join(root, container), { recursive: true, mode: 0o700 });
  await writeFile(path.join(root, container, "state.json"), state, { mode: 0o600 });
}

/** What runc keeps of it. */
async function stateOf(container: ContainerId): Promise<string> {
  const [folder] = await runcFoldersOf(container);
  if (folder === undefined)
    throw new DmigrateError(
      "DUMP_FAILED",
      `runc's state of the container is not below ${RUNC_ROOTS}; this engine is of a kind that this release does not know`,
    );
  return await readFile(path.join(folder, "state.json"), "utf8");
}

/**
 * @param child has not begun yet
 * @param log CRIU's
 */
function follow(child: ChildProcess, log: string, status: StatusPipe): { ready: Promise<void>; ended: Promise<void> } {
  let said = "";
  child.stderr?.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const ended = new Promise<void>((resolve) => {
    child.once("error", (error) => {
      said = error.message;
      resolve();
    });
    child.once("close", (_, signal) => {
      if (signal !== null) said ||= "Killed"; // by when-told, which misses what was killed
      resolve();
    });
  });
  const ready = status.firstByte().then(async (came) => {
    if (came) return;
    await ended;
    throw dumpFailed(lastErrors(await readFile(log, "utf8").catch(() => "")), said.trim());
  });
  ready.catch(() => {}); // whoever waits for it gets it; nobody may be waiting yet
  return { ready, ended };
}

/** As `ready`, or DUMP_FAILED if CRIU waits for a task in vain. */
async function unlessStalled(ready: Promise<void>, initPid: number): Promise<void> {
  const settled = new AbortController();
  const stalled = whenStalled(initPid, settled.signal).then(() => {
    const text = "A process of the container was stopped, by SIGSTOP or job control, as it was to be frozen, which CRIU can't dump";
    throw new DmigrateError("DUMP_FAILED", `${text}; let it go on (\`kill -CONT\`), then migrate again`);
  });
  try {
    await Promise.race([ready, stalled]);
  } finally {
    settled.abort();
  }
}

/**
 * @param logged the errors in CRIU's log
 * @param said by runc
 */
function dumpFailed(logged: string, said: string): DmigrateError {
  const killed = killedProgram(said);
  const text =
    killed === undefined
      ? `CRIU could not dump the container: ${logged || said}; remove what that names, then migrate again: it runs on here`
      : `${killed} was killed while it dumped the container; \`dmesg\` may say why, then migrate again: it runs on here`;
  return new DmigrateError("DUMP_FAILED", text);
}

/**
 * Returns when a dump that was begun has ended, which it does once it serves pages and its only client leaves: CRIU must have let go of the
 * tasks before they may run, until then parts of them are its own. It goes on without runc, and without the agent. If it waits for a task
 * in vain, those that it does not hold run by then. Throws DUMP_FAILED.
 */
export async function dumpEnded({ folder, initPid, port }: { folder: string; initPid: number; port: number }): Promise<void> {
  const deadline = performance.now() + RELEASE_LIMIT_MS;
  const watch = new StallWatch(initPid);
  while (isDumping(folder, initPid)) {
    if (performance.now() > deadline)
      throw new DmigrateError("DUMP_FAILED", `CRIU still holds process ${initPid}; wait until it ended, then restart the agent`);
    await breakOff(port);
    if (await watch.isStalled()) await watch.release();
    await sleep(RELEASE_RETRY_MS);
  }
}

/** Whether runc is there for a dump into that folder, or CRIU for one of that task. */
function isDumping(folder: string, initPid: number): boolean {
  const isRunc = (argv: readonly string[]): boolean =>
    argv.includes("checkpoint") && argv.some((argument) => argument.startsWith(`${folder}/`));
  return findProcess((argv) => isRunc(argv) || isCriuOf(initPid, argv)) !== undefined;
}

/**
 * Makes a page server give up by being its only client and leaving. Also ends what an agent before this one left. If nobody listens
 * there is none.
 */
export async function breakOff(port: number): Promise<void> {
  const client = connect({ host: "127.0.0.1", port });
  await once(client, "connect").catch(() => {});
  client.destroy();
}

/** The pipe through which CRIU says that it is ready. runc wants a descriptor open for writing alone, which Node's own pipes are not. */
class StatusPipe {
  readonly #readEnd: ReadStream;
  readonly writeEnd: number;

  private constructor(readEnd: ReadStream, writeEnd: number) {
    this.#readEnd = readEnd;
    this.writeEnd = writeEnd;
  }

  static open(file: string): StatusPipe {
    makeFifo(file);
    // A pipe opens for writing at once only if somebody has it open for reading, and blocks readers unless somebody writes.
    const opener = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
    const writeEnd = openSync(file, constants.O_WRONLY);
    const readEnd = createReadStream(file, { fd: openSync(file, constants.O_RDONLY) });
    closeSync(opener);
    return new StatusPipe(readEnd, writeEnd);
  }

  /** To be called once the child has the write end: the pipe's end then means the child's. */
  closeWriteEnd(): void {
    closeSync(this.writeEnd);
  }

  /** True when a byte came, false when the pipe ended without one. */
  async firstByte(): Promise<boolean> {
    try {
      return await Promise.race([once(this.#readEnd, "data").then(() => true), once(this.#readEnd, "end").then(() => false)]);
    } finally {
      this.#readEnd.destroy();
    }
  }
}

/** A port of the loopback interface that nobody listens at. */
async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new DmigrateError("INTERNAL", "A TCP server has no port");
  return address.port;
}
