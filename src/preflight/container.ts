/**
 * Gathers what a preflight has to know of a running container: from the Docker Engine what it was given, from /proc what its
 * processes hold. Nothing is stopped, entered or changed.
 */
import { existsSync } from "node:fs";
import { readdir, readFile, statfs } from "node:fs/promises";
import { join } from "node:path";
import * as z from "zod";
import { DmigrateError } from "../core/errors.ts";
import { deletedFiles } from "../core/preflight-container.ts";
import type { ContainerFacts, ContainerNeeds, IdMap, MountFacts, ProcessFacts, PublishedPort } from "../core/preflight-facts.ts";
import type { ContainerDescription } from "../docker/description.ts";
import type { Engine } from "../docker/engine.ts";
import type { InspectedContainer, InspectedExec } from "../docker/inspect.ts";
import { isNotFound, unless } from "../docker/transport.ts";
import { liesOnHost, storageOf } from "../docker/volumes.ts";
import { FREEZER_FILES, freezerGroups } from "../kernel/freezer-groups.ts";
import { parseMountinfo, type Mount } from "../kernel/mountinfo.ts";
import { pathKind, pathsOf, plainPaths, treeBytes } from "./paths.ts";
import { parseMulticast } from "./proc.ts";
import { isGone } from "./process.ts";
import { readProcesses } from "./processes.ts";
import { run } from "./program.ts";
import { canonicalAddress } from "./sockets.ts";

/** What of `HostConfig` only a preflight looks at (Docker Engine API, `HostConfig`). */
const resources = z.looseObject({
  Runtime: z.string(),
  Privileged: z.boolean(),
  Devices: z.array(z.looseObject({ PathOnHost: z.string() })).nullish(),
  DeviceRequests: z.array(z.looseObject({ Driver: z.string(), Count: z.int() })).nullish(),
  Memory: z.int(),
  NanoCpus: z.int(),
  CpuPeriod: z.int(),
  CpuQuota: z.int(),
  CpusetCpus: z.string(),
});

const healthcheck = z.looseObject({ Test: z.array(z.string()).nullish() }).optional();

/** Labels by which those who start containers again know theirs. */
const ORCHESTRATORS = { "com.docker.swarm.task.id": "Docker Swarm", "io.kubernetes.pod.name": "Kubernetes" };

/** What Docker mounts in every container beside what it was asked for, from files that come with the container. */
const DOCKER_MOUNTS = ["/", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts"];

const CPU_PERIOD_US = 100_000; // where none was given

/**
 * Gathers the facts of a running container.
 *
 * @param description of the container, as its engine is asked elsewhere
 * @param procRoot /proc of the pid namespace that the engine's pids belong to
 * @throws DOCKER, ROOTFS, KERNEL; CONTAINER_NOT_RUNNING
 */
export async function gatherContainer(engine: Engine, description: ContainerDescription, procRoot = "/proc"): Promise<ContainerFacts> {
  const container = await engine.inspectContainer(description.id);
  try {
    if (container.State.Running) return await gather(engine, description, container, procRoot);
  } catch (error) {
    if (!isGone(error)) throw error;
  }
  throw new DmigrateError("CONTAINER_NOT_RUNNING", `${description.name} does not run; start it (\`docker start ${description.name}\`)`);
}

async function gather(
  engine: Engine,
  description: ContainerDescription,
  container: InspectedContainer,
  procRoot: string,
): Promise<ContainerFacts> {
  const { Config, HostConfig, State } = container;
  const init = `${procRoot}/${State.Pid}`;
  const given = resources.parse(HostConfig);
  const modes = { network: HostConfig.NetworkMode, pid: HostConfig.PidMode, ipc: HostConfig.IpcMode, uts: HostConfig.UTSMode };
  const mounts = parseMountinfo(await readFile(`${init}/mountinfo`, "utf8"));
  const processes = await readProcesses(State.Pid, procRoot, await healthChecks(engine, container));
  const orchestrator = Object.entries(ORCHESTRATORS).find(([label]) => Config.Labels?.[label] !== undefined)?.[1];
  return {
    needs: await gatherNeeds(engine, description, container, init, mounts, processes),
    unmovable: description.unmovable,
    floatingAddresses: description.floatingAddresses.map(canonicalAddress),
    neighbours: await neighboursOf(engine, description),
    paused: State.Paused,
    frozen: !State.Paused && (await isFrozen(init)),
    dependents: await dependentsOf(engine, container),
    runtime: given.Runtime,
    ...(orchestrator === undefined ? {} : { orchestrator }),
    privileged: given.Privileged,
    deviceRequests: (given.DeviceRequests ?? []).map(({ Driver, Count }) => `${Count === -1 ? "all" : Count} ${Driver || "GPU"} devices`),
    hostNamespaces: (["network", "pid", "ipc", "uts"] as const).filter((kind) => modes[kind] === "host"),
    volumesShared: await sharedVolumes(engine, container),
    mounts: await ownMounts(container, init, mounts),
    bindPaths: container.Mounts.filter(({ Type }) => Type === "bind").map(({ Destination }) => Destination),
    shareableFiles: modes.ipc === "shareable" ? await readdir(`${init}/root/dev/shm`) : [],
    multicastGroups: parseMulticast(await readFile(`${init}/net/igmp`, "utf8"), await readIfThere(`${init}/net/igmp6`)),
    messageQueues: await messageQueues(init, mounts),
    semaphoreSets: await semaphoreSets(init),
    watchedPaths: plainPaths(await pathsOf(`${init}/root`, watchedInodes(processes))),
    linkedInodes: await linkedInodes(`${init}/root`, mounts, processes),
    processes,
  };
}

async function gatherNeeds(
  engine: Engine,
  description: ContainerDescription,
  container: InspectedContainer,
  init: string,
  mounts: readonly Mount[],
  processes: readonly ProcessFacts[],
): Promise<ContainerNeeds> {
  const given = resources.parse(container.HostConfig);
  const upper = ownLayer(mounts);
  const binds = [
    ...container.Mounts.filter(({ Type }) => Type === "bind").map(({ Source = "" }) => Source),
    ...description.volumes.filter((volume) => storageOf(volume) === "bind").map(({ options }) => options["device"] ?? ""),
  ];
  const idMap = parseIdMap(await readFile(`${init}/uid_map`, "utf8"), await readFile(`${init}/gid_map`, "utf8"));
  return {
    name: description.name,
    imageBytes: (await engine.inspectImage(container.Image)).Size,
    writableBytes: upper === undefined ? 0 : await treeBytes(upper),
    volumes: await Promise.all(
      description.volumes.map(async (volume) => ({
        name: volume.name,
        driver: volume.driver,
        storage: storageOf(volume),
        device: volume.options["device"] ?? "",
        bytes: liesOnHost(volume) ? await treeBytes(sourceOf(container, volume.name)) : 0,
      })),
    ),
    binds: await Promise.all(binds.map(async (path) => ({ path, kind: await pathKind(path) }))),
    devices: (given.Devices ?? []).map((device) => device.PathOnHost),
    networks: description.networks.map(({ name, driver }) => ({ name, driver, addresses: addressesOn(description, name) })),
    ports: publishedPorts(container),
    memory: {
      residentBytes: sum(processes.map(({ memory }) => memory.residentBytes)),
      hugePageBytes: sum(processes.map(({ memory }) => memory.hugePageBytes)),
      limitBytes: given.Memory,
    },
    cpus: { count: given.NanoCpus / 1e9 || given.CpuQuota / (given.CpuPeriod || CPU_PERIOD_US), set: given.CpusetCpus },
    logDriver: container.HostConfig.LogConfig.Type,
    ...(idMap === undefined ? {} : { idMap }),
    hasHostIds: container.HostConfig["UsernsMode"] === "host",
  };
}

/** Where the container's own writable layer lies. */
function ownLayer(mounts: readonly Mount[]): string | undefined {
  return /(?:^|,)upperdir=([^,]+)/.exec(mounts.find((mount) => mount.path === "/")?.options ?? "")?.[1];
}

function sourceOf({ Mounts }: InspectedContainer, volume: string): string {
  return Mounts.find(({ Name }) => Name === volume)?.Source ?? "";
}

function addressesOn({ endpoints }: ContainerDescription, network: string): string[] {
  const { IPv4Address, IPv6Address } = endpoints[network]?.IPAMConfig ?? {};
  return [IPv4Address, IPv6Address].flatMap((address) => (address === undefined || address === "" ? [] : [canonicalAddress(address)]));
}

function publishedPorts({ NetworkSettings }: InspectedContainer): PublishedPort[] {
  return Object.entries(NetworkSettings.Ports ?? {}).flatMap(([inner, bindings]) =>
    (bindings ?? []).map(({ HostIp, HostPort }) => ({
      hostAddress: HostIp,
      hostPort: Number(HostPort),
      protocol: inner.split("/")[1] ?? "tcp",
    })),
  );
}

/** The host's ids that stand behind the container's ids 0, unless they are the same (user_namespaces(7)). */
function parseIdMap(uidMap: string, gidMap: string): IdMap | undefined {
  const [firstUid = 0, firstGid = 0] = [uidMap, gidMap].map((map) => Number(/^\s*0\s+(\d+)/.exec(map)?.[1] ?? 0));
  return firstUid === 0 && firstGid === 0 ? undefined : { firstUid, firstGid };
}

async function sharedVolumes(engine: Engine, { Id, Mounts }: InspectedContainer): Promise<ContainerFacts["volumesShared"]> {
  const volumes = Mounts.flatMap(({ Type, Name }) => (Type === "volume" && Name !== undefined ? [Name] : []));
  const users = await Promise.all(volumes.map((volume) => engine.listContainers({ filters: { volume: [volume] } })));
  return volumes
    .map((volume, index) => ({
      volume,
      with: (users[index] ?? []).filter((other) => other.Id !== Id).map(({ Names }) => Names[0]?.slice(1) ?? ""),
    }))
    .filter((shared) => shared.with.length > 0);
}

/** What its freezer says of the cgroup of a process. */
async function isFrozen(init: string): Promise<boolean> {
  const mounts = parseMountinfo(await readFile("/proc/self/mountinfo", "utf8"));
  const [group] = freezerGroups(await readFile(`${init}/cgroup`, "utf8"), mounts);
  if (group === undefined) return false;
  const { state, isFrozen: frozen } = FREEZER_FILES[group.version];
  return frozen.test(await readIfThere(join(group.mountPoint, group.group, state)));
}

async function dependentsOf(engine: Engine, { Id }: InspectedContainer): Promise<ContainerFacts["dependents"]> {
  const others = (await engine.listContainers()).filter((other) => other.Id !== Id);
  const inspected = await Promise.all(others.map((other) => engine.inspectContainer(other.Id).catch(unless(404))));
  return inspected.flatMap((other) => {
    if (other === undefined) return [];
    const { NetworkMode, IpcMode, PidMode } = other.HostConfig;
    const modes = { network: NetworkMode, ipc: IpcMode, pid: PidMode };
    const namespaces = Object.entries(modes).flatMap(([kind, mode]) => (mode === `container:${Id}` ? [kind] : []));
    return namespaces.length === 0 ? [] : [{ name: other.Name.slice(1), namespaces }];
  });
}

/** All mounts but those of files that are copied or, as binds, expected on the target. */
async function ownMounts(container: InspectedContainer, init: string, mounts: readonly Mount[]): Promise<MountFacts[]> {
  const given = container.Mounts.filter(({ Type }) => Type !== "tmpfs").map(({ Destination }) => Destination);
  const shareable = container.HostConfig.IpcMode === "shareable" ? ["/dev/shm"] : [];
  const own = mounts.filter(({ path }) => ![...DOCKER_MOUNTS, ...given, ...shareable].includes(path));
  return await Promise.all(
    own.map(async ({ path, type, root }) => {
      const ofRoot = root === "/";
      return { path, type, ofRoot, usedBytes: type === "tmpfs" && ofRoot ? await usedBytes(`${init}/root${path}`) : 0 };
    }),
  );
}

async function usedBytes(mountPoint: string): Promise<number> {
  const { blocks, bfree, bsize } = await statfs(mountPoint);
  return (blocks - bfree) * bsize;
}

async function messageQueues(init: string, mounts: readonly Mount[]): Promise<string[]> {
  const mount = mounts.find(({ type }) => type === "mqueue");
  return mount === undefined ? [] : await readdir(`${init}/root${mount.path}`);
}

/** The kernel tells everybody of their own namespace only: the table is read by one who enters the container's. */
async function semaphoreSets(init: string): Promise<number> {
  const { said } = await run("nsenter", [`--ipc=${init}/ns/ipc`, "cat", "/proc/sysvipc/sem"]);
  return [...said.matchAll(/^\s*-?\d+\s+\d+\s/gm)].length;
}

/** "" where the kernel has no such thing, like IPv6. */
async function readIfThere(file: string): Promise<string> {
  return existsSync(file) ? await readFile(file, "utf8") : "";
}

async function neighboursOf(engine: Engine, { id, networks }: ContainerDescription): Promise<ContainerFacts["neighbours"]> {
  const bridges = networks.filter(({ driver }) => driver === "bridge").map(({ name }) => name);
  if (bridges.length === 0) return [];
  const others = (await engine.listContainers({ all: false })).filter(({ Id }) => Id !== id);
  return bridges.flatMap((network) => {
    const names = others
      .filter(({ NetworkSettings }) => NetworkSettings.Networks[network] !== undefined)
      .map(({ Id, Names }) => Names[0]?.slice(1) ?? Id);
    return names.length === 0 ? [] : [{ network, names }];
  });
}

function watchedInodes(processes: readonly ProcessFacts[]): number[] {
  const descriptors = processes.flatMap((process) => process.descriptors);
  return descriptors.flatMap((descriptor) =>
    descriptor.kind === "watch" && descriptor.fileSystem === "overlay" ? [descriptor.inode] : [],
  );
}

/** A file of the image keeps the links that its layer has; only what is in the container's own layer was linked by the container. */
async function linkedInodes(root: string, mounts: readonly Mount[], processes: readonly ProcessFacts[]): Promise<number[]> {
  const deleted = processes.flatMap((process) => deletedFiles(process)).map(({ file }) => file);
  const linked = deleted.filter(({ linkCount, fileSystem }) => linkCount > 0 && fileSystem === "overlay").map(({ inode }) => inode);
  const upper = ownLayer(mounts);
  if (upper === undefined) return linked;
  const paths = await pathsOf(root, linked);
  return paths.flatMap(([inode, path]) => (existsSync(`${upper}${path}`) ? [inode] : []));
}

/** Pids of health checks in flight, which the engine starts as it does a `docker exec`. */
async function healthChecks(engine: Engine, { Config, ExecIDs }: InspectedContainer): Promise<ReadonlySet<number>> {
  const [kind, ...words] = healthcheck.parse(Config["Healthcheck"])?.Test ?? [];
  if (kind === undefined || kind === "NONE") return new Set();
  const execs = await Promise.all((ExecIDs ?? []).map((id) => inspectExec(engine, id)));
  return new Set(execs.flatMap((exec) => (exec !== undefined && commandOf(exec).endsWith(words.join(" ")) ? [exec.Pid] : [])));
}

/** Undefined if it has ended and been forgotten. */
async function inspectExec(engine: Engine, id: string): Promise<InspectedExec | undefined> {
  try {
    return await engine.inspectExec(id);
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

function commandOf({ ProcessConfig }: InspectedExec): string {
  return [ProcessConfig.entrypoint, ...(ProcessConfig.arguments ?? [])].join(" ");
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
