/**
 * Gathers the features of this host, each by trying or looking; and, of a target, what there is in the place of the container about to
 * come. Nothing is changed.
 */
import { access, constants, readFile, realpath, statfs } from "node:fs/promises";
import { cpus, machine, release } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { messageOf } from "../core/errors.ts";
import type { HostName } from "../core/ids.ts";
import { RUNTIME } from "../core/preflight-hosts.ts";
import type { DockerFacts, Feature, HostFacts, IdMap } from "../core/preflight-facts.ts";
import { Engine } from "../docker/engine.ts";
import type { EngineInfo } from "../docker/inspect.ts";
import { gatherArrival, type HasMovedAway } from "./arrival.ts";
import { criuFeatures, tryCriu, tryDump, tryRunc } from "./criu.ts";
import { hugePagesFreeBytes, meminfoBytes, parseCpuFlags, parseStatus } from "./proc.ts";
import type { Arriving } from "./schema.ts";

/** Bit of capabilities(7). */
const CAP_SYS_RESOURCE = 24n;

/** What the runtime has CRIU use for tar(1), beside it. */
const ARCHIVER = "archive/tar";

const RUNTIME_PATH = fileURLToPath(new URL("../shim/dmigrate-runtime", import.meta.url));

/** What a host can't find out about itself. */
export interface HostOptions {
  readonly host: HostName;
  readonly dockerSocket: string;
  /** Folder that CRIU's images are put in. */
  readonly imageFolder: string;
  /** Holds and silences a network namespace made for it. Throws KERNEL if the kernel can't. */
  readonly tryNetwork: () => Promise<void>;
  readonly hasMovedAway: HasMovedAway;
  readonly pageHandler: HostFacts["pageHandler"];
  /** The container about to come, if this is to be its target. */
  readonly arriving?: Arriving;
  /** Reaches the host that it is to come from. */
  readonly tryReturn?: () => Promise<void>;
}

/** Gathers the facts of this host. What can't be found out is a fact too; throws only where /proc itself can't be read. */
export async function gatherHost(options: HostOptions): Promise<HostFacts> {
  const { host, imageFolder, tryReturn } = options;
  const [status, meminfo, cpuinfo, pipeMaxSize] = await Promise.all(
    ["/proc/self/status", "/proc/meminfo", "/proc/cpuinfo", "/proc/sys/fs/pipe-max-size"].map((file) => readFile(file, "utf8")),
  );
  const [criu, criuDump, features, runc, docker, freeBytes, returnPath] = await Promise.all([
    tryCriu(),
    tryDump(),
    criuFeatures(),
    tryRunc(),
    gatherDocker(options),
    diskFreeBytes(imageFolder),
    tryReturn === undefined ? undefined : attempt(tryReturn),
  ]);
  return {
    host,
    kernel: release(),
    architecture: machine(),
    cpuFlags: parseCpuFlags(cpuinfo ?? ""),
    cpuCount: cpus().length,
    memoryAvailableBytes: meminfoBytes(meminfo ?? "", "MemAvailable"),
    hugePagesFreeBytes: hugePagesFreeBytes(meminfo ?? ""),
    imageSpace: { path: imageFolder, freeBytes },
    pipeMaxBytes: Number(pipeMaxSize),
    hasSysResource: ((parseStatus(status ?? "").capabilities >> CAP_SYS_RESOURCE) & 1n) === 1n,
    criu,
    criuDump,
    criuFeatures: features,
    runc,
    runtimePath: RUNTIME_PATH,
    pageHandler: options.pageHandler,
    quarantine: await attempt(options.tryNetwork),
    ...(returnPath === undefined ? {} : { returnPath }),
    docker,
  };
}

async function attempt(what: () => Promise<void>): Promise<Feature> {
  try {
    await what();
    return { works: true, version: "" };
  } catch (error) {
    return { works: false, reason: messageOf(error) };
  }
}

async function gatherDocker({ dockerSocket, arriving, hasMovedAway }: HostOptions): Promise<HostFacts["docker"]> {
  try {
    const engine = await Engine.connect(dockerSocket);
    const info = await engine.info();
    const arrival = arriving === undefined ? {} : { arrival: await gatherArrival(engine, arriving, hasMovedAway) };
    return { ...(await engineFacts(info)), ...arrival };
  } catch (error) {
    return { reachable: false, reason: messageOf(error) };
  }
}

async function engineFacts(info: EngineInfo): Promise<DockerFacts> {
  const security = (info.SecurityOptions ?? []).flatMap((option) => /(?:^|,)name=([^,]+)/.exec(option)?.[1] ?? []);
  const runtime = info.Runtimes[RUNTIME];
  const idMap = security.includes("userns") ? remappedIds(info.DockerRootDir) : undefined;
  return {
    reachable: true,
    version: info.ServerVersion,
    storageDriver: info.Driver,
    cgroupVersion: info.CgroupVersion === "2" ? "2" : "1",
    ...(runtime === undefined ? {} : { runtime: await attempt(() => assertOurs(runtime.path ?? "")) }),
    logDrivers: info.Plugins.Log ?? [],
    volumeDrivers: info.Plugins.Volume ?? [],
    networkDrivers: info.Plugins.Network ?? [],
    securityModules: ["apparmor", "selinux"].filter((module) => security.includes(module)),
    ...(idMap === undefined ? {} : { idMap }),
    rootDir: info.DockerRootDir,
    diskFreeBytes: await diskFreeBytes(info.DockerRootDir),
  };
}

/** Throws unless a program is our runtime, of the same release, wherever it lies, with what it needs beside it. */
async function assertOurs(program: string): Promise<void> {
  await access(program, constants.X_OK);
  const [theirs, ours] = [path.dirname(await realpath(program)), path.dirname(RUNTIME_PATH)];
  if (!(await readFile(program)).equals(await readFile(RUNTIME_PATH)))
    throw new Error(`${program} is another program, or of another release, than ${RUNTIME_PATH}`);
  const archiver = await readFile(path.join(theirs, ARCHIVER)).catch(() => undefined);
  if (archiver?.equals(await readFile(path.join(ours, ARCHIVER))) !== true)
    throw new Error(`${program} is a copy of ${RUNTIME_PATH} without what belongs to it`);
}

/** dockerd names its folder after the ids that it maps the containers' root to (moby's `setupDaemonRoot`). */
function remappedIds(rootDir: string): IdMap | undefined {
  const [, uid, gid] = /\/(\d+)\.(\d+)$/.exec(rootDir) ?? [];
  return uid === undefined || gid === undefined ? undefined : { firstUid: Number(uid), firstGid: Number(gid) };
}

async function diskFreeBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}
