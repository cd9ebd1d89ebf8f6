/**
 * The lazy dump of a frozen container: runc checkpoint writes all but the lazy pages and then serves those until the
 * target has them.
 */
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, constants, createReadStream, openSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import path from "node:path";
import { DmigrateError } from "../core/errors.ts";
import type { ContainerId } from "../core/ids.ts";
import { lastErrors } from "./log.ts";

/** Where Docker keeps the state of its containers' runc (the `--root` it passes). */
export const RUNC_ROOT = "/run/docker/runtime-runc/moby";

const WITH_CONFIGURATION = fileURLToPath(new URL("../shim/with-criu-config", import.meta.url));

/** What to dump and where to. */
export interface LazyDumpRequest {
  readonly container: ContainerId;
  /** A folder of this dump alone; `images` and `work` are made in it. */
  readonly folder: string;
  /** Lines of a CRIU configuration file. */
  readonly configuration: string;
}

/** A dump that is under way. */
export interface LazyDump {
  /** The folder of the image files. */
  readonly images: string;
  /** The page server's port on the loopback interface. */
  readonly port: number;
  /** Fulfilled when all images are written and the page server listens; DUMP_FAILED if CRIU ends before. */
  readonly ready: Promise<void>;
  /**
   * Fulfilled when CRIU ended: it has served every page and killed the tasks, or its peer left and the tasks are as frozen as
   * they were before; `served` tells which.
   */
  readonly ended: Promise<{ readonly served: boolean }>;
  /**
   * Gives the dump up; returns when CRIU ended and the tasks are frozen, and nothing else. CRIU must never be killed: it would
   * leave its own code in the tasks. So this lets it come to the point where it serves pages, and then breaks off.
   */
  abandon(): Promise<void>;
}

/** Makes the folders of a dump, so that somebody may watch them before it begins. */
export async function prepareDump(folder: string): Promise<{ images: string; work: string }> {
  const images = path.join(folder, "images");
  const work = path.join(folder, "work");
  for (const each of [images, work, "/etc/criu"]) await mkdir(each, { recursive: true, mode: 0o700 });
  return { images, work };
}

/**
 * Begins a lazy dump. The container's cgroup must be frozen already: then CRIU finds it so, does not poll, and leaves it frozen
 * whatever happens (docs/decisions/0002-fence.md). When this returns or throws, the source holds the container, frozen.
 */
export async function startLazyDump(request: LazyDumpRequest): Promise<LazyDump> {
  const { images, work } = await prepareDump(request.folder);
  const configuration = path.join(request.folder, "criu.conf");
  await writeFile(configuration, request.configuration, { mode: 0o600 });
  const status = await openStatusPipe(path.join(request.folder, "status"));
  const port = await freePort();
  const argv = [
    ...["--mount", "--propagation", "private", "--", "sh", WITH_CONFIGURATION, configuration],
    ...["runc", "--root", RUNC_ROOT, "checkpoint", "--image-path", images, "--work-path", work],
    ...["--lazy-pages", "--page-server", `127.0.0.1:${port}`, "--status-fd", "3", "--tcp-established", "--file-locks", request.container],
  ];
  const child = spawn("unshare", argv, { stdio: ["ignore", "ignore", "pipe", status.writeEnd], detached: true });
  closeSync(status.writeEnd);
  let said = "";
  child.stderr?.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const ended = new Promise<{ served: boolean }>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve({ served: code === 0 }));
  });
  const ready = status.firstByte.then(async (came) => {
    if (came) return;
    await ended;
    const log = await readFile(path.join(work, "dump.log"), "utf8").catch(() => "");
    throw new DmigrateError("DUMP_FAILED", `CRIU could not dump the container: ${lastErrors(log) || said.trim()}; the source runs on`);
  });
  ready.catch(() => {}); // whoever waits for it gets it; nobody may be waiting yet
  ended.catch(() => {});
  const abandon = async (): Promise<void> => {
    await ready.then(() => breakOff(port), () => {});
    await ended;
  };
  return { images, port, ready, ended, abandon };
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

/** runc wants a descriptor that is open for writing alone, which Node's own pipes are not. */
async function openStatusPipe(file: string): Promise<{ writeEnd: number; firstByte: Promise<boolean> }> {
  await promisify(execFile)("mkfifo", ["-m", "600", file]);
  const readEnd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  const writeEnd = openSync(file, constants.O_WRONLY);
  closeSync(readEnd);
  const stream = createReadStream(file, { fd: openSync(file, constants.O_RDONLY) });
  const firstByte = Promise.race([once(stream, "data").then(() => true), once(stream, "end").then(() => false)]);
  void firstByte.finally(() => stream.destroy());
  return { writeEnd, firstByte };
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
