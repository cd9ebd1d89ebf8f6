/**
 * Checks of the container's place on the target: name, memory, disk, processors, networks, ports, volumes, devices.
 */
import { blocker, count, size, warning, type ArrivalSubject, type Check, type Problem } from "./preflight-check.ts";
import type { ContainerFacts, HostFacts, PublishedPort } from "./preflight-facts.ts";

/** What CRIU's images take beside memory: registers, descriptors, page maps. */
const IMAGE_BASE_BYTES = 16 * 1024 * 1024;

export const arrivalChecks = {
  name: {
    passed: (s) => `The name ${s.container.needs.name} is free on ${s.target.host}`,
    *find({ target: { host }, container: { needs }, arrival }) {
      if (arrival.nameTakenBy === undefined) return;
      yield blocker(
        `${host} has a container named ${needs.name} already (${arrival.nameTakenBy.slice(0, 12)})`,
        `remove or rename it: \`docker rename ${needs.name} ${needs.name}-old\` on ${host}`,
        host,
      );
    },
  },
  memory: {
    passed: (s) =>
      `${s.target.host} has memory for it: ${size(s.container.needs.memory.residentBytes)} of ${size(s.target.memoryAvailableBytes)}`,
    *find({ target: { host, memoryAvailableBytes, hugePagesFreeBytes }, container: { needs } }) {
      const { residentBytes, limitBytes, hugePageBytes } = needs.memory;
      const remedy = `stop something on ${host}, or choose another target`;
      if (residentBytes > memoryAvailableBytes) {
        yield blocker(
          `The container uses ${size(residentBytes)} of memory; ${host} has ${size(memoryAvailableBytes)} available`,
          remedy,
          host,
        );
      } else if (limitBytes > memoryAvailableBytes) {
        yield warning(
          `The container may grow to ${size(limitBytes)} of memory; ${host} has ${size(memoryAvailableBytes)} available`,
          remedy,
          host,
        );
      }
      if (hugePageBytes > hugePagesFreeBytes) {
        yield blocker(
          `The container uses ${size(hugePageBytes)} of huge pages; ${host} has ${size(hugePagesFreeBytes)} free`,
          `raise vm.nr_hugepages on ${host}`,
          host,
        );
      }
    },
  },
  disk: {
    passed: (s) => `${s.target.host} has disk space for it: ${size(diskBytes(s))} of ${size(diskFreeBytes(s.target))}`,
    *find(s) {
      const { host, docker } = s.target;
      if (!docker.reachable || diskBytes(s) <= docker.diskFreeBytes) return;
      yield blocker(
        `Image, writable layer and volumes take ${size(diskBytes(s))}; ${host} has ${size(docker.diskFreeBytes)} free at ${docker.rootDir}`,
        `free space on ${host}: \`docker system prune\` removes what nothing uses`,
        host,
      );
    },
  },
  "image-space": {
    passed: (s) => `Both hosts have space for ${size(imageBytes(s.container))} of images`,
    *find(s) {
      for (const { host, imageSpace } of [s.source, s.target]) {
        if (imageBytes(s.container) <= imageSpace.freeBytes) continue;
        yield blocker(
          `CRIU's images can take ${size(imageBytes(s.container))}, with the memory that can't be sent later; ` +
            `${host} has ${size(imageSpace.freeBytes)} free at ${imageSpace.path}`,
          `free space at ${imageSpace.path} on ${host}, or mount something larger there`,
          host,
        );
      }
    },
  },
  cpus: {
    passed: (s) => `${s.target.host} has the processors it was given`,
    *find({ target: { host, cpuCount }, container: { needs } }) {
      const { count: limit, set } = needs.cpus;
      if (limit > cpuCount) {
        yield blocker(
          `The container was given ${limit} processors; ${host} has ${cpuCount}`,
          `lower it first: \`docker update --cpus ${cpuCount} ${needs.name}\``,
          host,
        );
      }
      if (Math.max(-1, ...cpusIn(set)) >= cpuCount) {
        yield blocker(
          `The container is bound to processors ${set}; ${host} has 0-${cpuCount - 1}`,
          `bind it to processors that both have: \`docker update --cpuset-cpus 0-${cpuCount - 1} ${needs.name}\``,
          host,
        );
      }
    },
  },
  networks: {
    passed: (s) => `${s.target.host} has its networks and its addresses are free there`,
    find: findNetworks,
  },
  ports: {
    passed: (s) => `The host ports it publishes are free on ${s.target.host}`,
    *find({ source, target: { host }, container: { needs }, arrival }) {
      for (const [port, by] of new Map(arrival.portsTaken.map((taken) => [portName(taken.port), taken.by]))) {
        yield blocker(
          `Port ${port} of ${host}, which the container publishes, is used by ${by}`,
          `stop ${by}, or choose another target`,
          host,
        );
      }
      if (needs.ports.length === 0) return;
      const ports = [...new Set(needs.ports.map(portName))].join(", ");
      yield warning(
        `Clients that reach the container through ${ports} of ${source.host} lose their connections: that address does not move`,
        "give the container an address of its own on a macvlan network, or send those clients to the target afterwards",
      );
    },
  },
  volumes: {
    passed: (s) => `Its volumes can be made on ${s.target.host}`,
    *find({ source, target: { host, docker }, container, arrival }) {
      for (const [index, { name, driver, storage, device }] of container.needs.volumes.entries()) {
        if (storage === "memory") {
          const remedy = "mount it with `--tmpfs`, whose files come along, or use a volume without options";
          yield blocker(`Volume ${name} is in memory of ${source.host}: its files would be lost`, remedy, source.host);
        }
        if (storage === "device") {
          const remedy = "keep the data in a volume without options, or on network storage";
          yield blocker(`Volume ${name} mounts ${device} of ${source.host}, which does not come along`, remedy, source.host);
        }
        const { content = "none", differences = [], usedBy = [] } = arrival.volumes[index] ?? {};
        const remedy = `remove it (\`docker volume rm ${name}\` on ${host}) if nobody needs it, or rename one of the two`;
        if (docker.reachable && !docker.volumeDrivers.includes(driver)) {
          yield blocker(`Volume ${name} needs the volume driver ${driver}, which ${host} lacks`, `install that plugin on ${host}`, host);
        } else if (usedBy.length > 0 && content !== "elsewhere") {
          yield blocker(`Volume ${name} exists on ${host} and is used by ${usedBy.join(", ")}`, remedy, host);
        } else if (differences.length > 0) {
          yield blocker(`Volume ${name} exists on ${host}, but ${differences.join(", ")}`, remedy, host);
        } else if (content === "unknown") {
          yield blocker(`Volume ${name} exists on ${host} and holds files that did not move away from there`, remedy, host);
        } else if (content === "left-behind") {
          yield warning(
            `Volume ${name} on ${host} is what was left as it moved away from there: its content will be replaced`,
            "keep a copy if somebody has changed it since",
            host,
          );
        }
      }
      for (const { volume, with: others } of container.volumesShared) {
        yield blocker(
          `Volume ${volume} is shared with ${others.join(", ")}: the copies would part`,
          `stop ${others.join(", ")} on ${source.host} first, or keep the data on network storage`,
          source.host,
        );
      }
    },
  },
  binds: {
    passed: (s) => `The host paths it mounts exist on ${s.target.host}`,
    *find({ source, target: { host }, container: { needs }, arrival }) {
      for (const [index, { path, kind }] of needs.binds.entries()) {
        const there = arrival.binds[index] ?? "missing";
        if (there === kind) {
          yield warning(
            `${path} is a ${kind} of the host: the container will see that of ${host}, nothing of it is copied`,
            `make sure that it is the same on ${source.host} and ${host}, or use a volume`,
            host,
          );
        } else {
          yield blocker(
            `${path}, a ${kind} that is mounted into the container, is ${there === "missing" ? "missing" : `a ${there}`} on ${host}`,
            `make it there with the content the container needs, or use a volume`,
            host,
          );
        }
      }
    },
  },
  devices: {
    passed: (s) => `The devices it was given exist on ${s.target.host}`,
    *find({ target: { host }, arrival, container }) {
      for (const path of arrival.missingDevices) {
        yield blocker(
          `${path}, which the container was given, is missing on ${host}`,
          `attach that device to ${host}, or choose another target`,
          host,
        );
      }
      for (const request of container.deviceRequests) {
        yield blocker(`The container was given ${request}: what is in such a device can't be moved`, "run it without them");
      }
    },
  },
  "log-driver": {
    passed: (s) => `${s.target.host} has the log driver ${s.container.needs.logDriver}`,
    *find({ target: { host, docker }, container: { needs } }) {
      // Every engine knows `none`; it is no plugin, so none lists it.
      if (!docker.reachable || needs.logDriver === "none" || docker.logDrivers.includes(needs.logDriver)) return;
      yield blocker(`The container logs through ${needs.logDriver}, which ${host} lacks`, `install that plugin on ${host}`, host);
    },
  },
} as const satisfies Record<string, Check<ArrivalSubject>>;

function* findNetworks({ source, target: { host, docker }, container, arrival }: ArrivalSubject): Iterable<Problem> {
  for (const [index, { name, driver, addresses }] of container.needs.networks.entries()) {
    const { differences = [], missingInterface, taken = [], keptBy = [] } = arrival.networks[index] ?? {};
    if (docker.reachable && !docker.networkDrivers.includes(driver)) {
      yield blocker(`Network ${name} needs the network driver ${driver}, which ${host} lacks`, `install that plugin on ${host}`, host);
    } else if (missingInterface !== undefined) {
      yield blocker(
        `Network ${name} is missing on ${host} and can't be made there: ${host} has no interface ${missingInterface}`,
        `make it on another one: \`docker network create --driver ${driver} --opt parent=INTERFACE --subnet SUBNET ${name}\` on ${host}`,
        host,
      );
    } else if (differences.length > 0) {
      const remedy = `remove it so that it is made anew (\`docker network rm ${name}\` on ${host}), or give one of the two another name`;
      yield blocker(`Network ${name} of ${host} differs from the container's: ${differences.join(", ")}`, remedy, host);
    } else if (keptBy.length > 0) {
      yield warning(
        `Network ${name} of ${host}, which ${listed(keptBy)} uses, may have been made without --subnet: ` +
          "then nobody can ask for an address there",
        `if so, make it anew with --subnet on ${host}; otherwise the migration fails while it copies, and the container runs on`,
        host,
      );
    }
    for (const { address, by } of taken) {
      yield blocker(
        `The container's address on network ${name}, ${address}, is taken by ${by} on ${host}`,
        `free that address on ${host}, or choose another target`,
        host,
      );
    }
    if (driver === "bridge") yield* partConnections(source, container, name, addresses);
  }
  for (const { network, names } of container.neighbours) {
    yield warning(
      `${listed(names)} on network ${network} of ${source.host} will not reach the container any more: a bridge network ends at its host`,
      "migrate them, too, or use a macvlan or overlay network, which both hosts are on",
    );
  }
  if (container.floatingAddresses.length > 0) {
    yield* loseAddress(container, container.floatingAddresses);
    yield* partConnections(source, container, "bridge", container.floatingAddresses);
  }
}

/** On the default network the container gets another address, and a socket can't be restored on an address that is not there. */
function* loseAddress(container: ContainerFacts, addresses: readonly string[]): Iterable<Problem> {
  const { name } = container.needs;
  const remedy =
    "move it to a network of your own: `docker network create --subnet SUBNET NETWORK`, " +
    `\`docker network connect NETWORK ${name}\`, \`docker network disconnect bridge ${name}\``;
  const bound = socketsOn(container, addresses).length;
  if (bound > 0) {
    yield blocker(
      `${count(bound, "socket")} of the container use its address on Docker's default network, where no container can keep an address`,
      remedy,
    );
  } else {
    yield warning("The container gets another address: on Docker's default network no container can keep one", remedy);
  }
}

/** A bridge network ends at its host: what is at the other end of a connection is not there any more. */
function* partConnections(source: HostFacts, container: ContainerFacts, network: string, addresses: readonly string[]): Iterable<Problem> {
  const parted = socketsOn(container, addresses).filter((socket) => socket.type === "tcp" && socket.state === "established").length;
  if (parted === 0) return;
  yield warning(
    `${count(parted, "connection")} through network ${network} will break: a bridge network ends at ${source.host}`,
    "use a macvlan or overlay network, which both hosts are on, for connections that must last",
  );
}

function socketsOn(container: ContainerFacts, addresses: readonly string[]) {
  return container.processes
    .flatMap((process) => process.descriptors)
    .flatMap((descriptor) => (descriptor.kind === "socket" ? [descriptor.socket] : []))
    .filter((socket) => (socket.type === "tcp" || socket.type === "udp") && addresses.includes(socket.local));
}

const NAMES_MAX = 3;

function listed(names: readonly string[]): string {
  const more = names.length - NAMES_MAX;
  return names.slice(0, NAMES_MAX).join(", ") + (more > 0 ? ` and ${more} more` : "");
}

function portName({ hostPort, protocol }: PublishedPort): string {
  return `${hostPort}/${protocol}`;
}

/** What the container's files take on the target. */
export function diskBytes({ container: { needs }, arrival }: ArrivalSubject): number {
  return arrival.missingImageBytes + needs.writableBytes + needs.volumes.reduce((sum, volume) => sum + volume.bytes, 0);
}

function diskFreeBytes({ docker }: HostFacts): number {
  return docker.reachable ? docker.diskFreeBytes : 0;
}

/** Bytes that CRIU dumps and restores whatever the mode: memory that no page fault can ask for later, and files in memory. */
export function frozenBytes(container: ContainerFacts): number {
  const memory = container.processes.map((process) => process.memory);
  return (
    memory.reduce((sum, { sharedBytes, lockedBytes, hugePageBytes }) => sum + sharedBytes + lockedBytes + hugePageBytes, 0) +
    container.mounts.reduce((sum, { usedBytes }) => sum + usedBytes, 0)
  );
}

function imageBytes(container: ContainerFacts): number {
  return IMAGE_BASE_BYTES + frozenBytes(container);
}

/** The processors of a list like `0-2,7` (cpuset(7), "List format"). */
export function cpusIn(list: string): Set<number> {
  const ranges = list.split(",").filter((text) => text !== "");
  return new Set(
    ranges.flatMap((text) => {
      const [first = 0, last = first] = text.split("-").map(Number);
      return Array.from({ length: last - first + 1 }, (_, index) => first + index);
    }),
  );
}
