/**
 * Gathers what this host's Docker Engine has in the place of what a container needs: its name, image, networks, addresses, ports,
 * volumes, paths and devices.
 */
import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { networkInterfaces } from "node:os";
import type { Arrival, PublishedPort, VolumeContent } from "../core/preflight-facts.ts";
import { describeNetwork } from "../docker/describe.ts";
import type { NetworkDescription, VolumeDescription } from "../docker/description.ts";
import type { Engine } from "../docker/engine.ts";
import { presentLayers } from "../docker/images.ts";
import type { InspectedVolume, ListedContainer } from "../docker/inspect.ts";
import { mayHaveChosenSubnet, networkDifferences } from "../docker/networks.ts";
import { isNotFound } from "../docker/transport.ts";
import { liesOnHost, volumeDifferences, volumeIdentity } from "../docker/volumes.ts";
import { pathKind } from "./paths.ts";
import type { Arriving } from "./schema.ts";
import { boundPorts, canonicalAddress, socketHolder } from "./sockets.ts";

/** Whether a volume, told from a later one of its name by its identity, is only what was left as it moved away from this host. */
export type HasMovedAway = (volume: string, identity: string) => boolean;

/** The drivers whose networks are made on an interface of the host. */
const ON_INTERFACE = new Set(["macvlan", "ipvlan"]);

/** Gathers what there is for a container about to come. Throws DOCKER. */
export async function gatherArrival(engine: Engine, { needs, description }: Arriving, hasMovedAway: HasMovedAway): Promise<Arrival> {
  const containers = await engine.listContainers({ all: true });
  const running = containers.filter(({ State }) => State === "running" || State === "paused");
  const present = new Set(await presentLayers(engine));
  const namesake = containers.find(({ Names }) => Names.includes(`/${needs.name}`));
  return {
    ...(namesake === undefined ? {} : { nameTakenBy: namesake.Id }),
    missingImageBytes: present.has(description.image.id) ? 0 : needs.imageBytes,
    networks: await Promise.all(
      description.networks.map((network, index) => gatherNetwork(engine, network, needs.networks[index]?.addresses ?? [], running)),
    ),
    portsTaken: portsTaken(needs.ports, running),
    volumes: await Promise.all(description.volumes.map((volume) => gatherVolume(engine, volume, containers, hasMovedAway))),
    binds: await Promise.all(needs.binds.map(({ path }) => pathKind(path))),
    missingDevices: needs.devices.filter((path) => !existsSync(path)),
  };
}

async function gatherNetwork(
  engine: Engine,
  wanted: NetworkDescription,
  addresses: readonly string[],
  running: readonly ListedContainer[],
): Promise<Arrival["networks"][number]> {
  const existing = (await engine.listNetworks()).find(({ Name }) => Name === wanted.name);
  if (existing === undefined) {
    const parent = ON_INTERFACE.has(wanted.driver) ? wanted.options["parent"] : undefined;
    const isMissing = parent !== undefined && !existsSync(`/sys/class/net/${baseOf(parent)}`);
    return { differences: [], ...(isMissing ? { missingInterface: parent } : {}), taken: takenByHost(addresses) };
  }
  const users = running.filter(({ NetworkSettings }) => NetworkSettings.Networks[wanted.name] !== undefined);
  const taken = users.flatMap((container) => {
    const { IPAddress = "", GlobalIPv6Address = "" } = container.NetworkSettings.Networks[wanted.name] ?? {};
    return [IPAddress, GlobalIPv6Address]
      .filter((address) => address !== "" && addresses.includes(canonicalAddress(address)))
      .map((address) => ({ address, by: nameOf(container) }));
  });
  const there = describeNetwork(existing);
  return {
    differences: networkDifferences(wanted, there),
    taken: [...taken, ...takenByHost(addresses)],
    ...(mayHaveChosenSubnet(there) ? { keptBy: users.map(nameOf) } : {}),
  };
}

/** Those that this host has itself. */
function takenByHost(addresses: readonly string[]): Arrival["networks"][number]["taken"] {
  return Object.entries(networkInterfaces()).flatMap(([name, found = []]) =>
    found
      .map(({ address }) => canonicalAddress(address))
      .filter((address) => addresses.includes(address))
      .map((address) => ({ address, by: `interface ${name}` })),
  );
}

/** The engine makes VLAN interfaces like eth0.10 itself, on an interface that must be there. */
function baseOf(parent: string): string {
  return parent.replace(/\.\d+$/, "");
}

async function gatherVolume(
  engine: Engine,
  wanted: VolumeDescription,
  containers: readonly ListedContainer[],
  hasMovedAway: HasMovedAway,
): Promise<Arrival["volumes"][number]> {
  const usedBy = containers.filter(({ Mounts }) => Mounts.some(({ Type, Name }) => Type === "volume" && Name === wanted.name)).map(nameOf);
  try {
    const existing = await engine.inspectVolume(wanted.name);
    return { content: await contentOf(engine, wanted, existing, hasMovedAway), differences: volumeDifferences(wanted, existing), usedBy };
  } catch (error) {
    if (isNotFound(error)) return { content: "none", differences: [], usedBy };
    throw error;
  }
}

async function contentOf(
  engine: Engine,
  wanted: VolumeDescription,
  existing: InspectedVolume,
  hasMovedAway: HasMovedAway,
): Promise<VolumeContent> {
  if (!liesOnHost(wanted)) return "elsewhere";
  if (hasMovedAway(wanted.name, await volumeIdentity(engine, wanted.name))) return "left-behind";
  return (await readdir(existing.Mountpoint)).length === 0 ? "none" : "unknown";
}

/** Ports that a container publishes, or that some process of the host is bound to. */
function portsTaken(wanted: readonly PublishedPort[], running: readonly ListedContainer[]): Arrival["portsTaken"] {
  const published = running.flatMap((container) =>
    container.Ports.flatMap(({ IP = "", PublicPort, Type }) =>
      PublicPort === undefined
        ? []
        : [{ port: { hostAddress: IP, hostPort: PublicPort, protocol: Type }, by: () => `container ${nameOf(container)}` }],
    ),
  );
  const bound = boundPorts("/proc/self/net").map(({ port, inode }) => ({
    port,
    by: () => socketHolder(inode) ?? "a process of the host",
  }));
  return wanted.flatMap((port) => {
    const user = [...published, ...bound].find((other) => collide(port, other.port));
    return user === undefined ? [] : [{ port, by: user.by() }];
  });
}

function collide(a: PublishedPort, b: PublishedPort): boolean {
  const [one, other] = [a, b].map(({ hostAddress }) => (hostAddress === "" ? "0.0.0.0" : canonicalAddress(hostAddress)));
  const meet = one === other || [one, other].some((address) => address === "0.0.0.0" || address === "::");
  return meet && a.hostPort === b.hostPort && a.protocol === b.protocol;
}

function nameOf({ Id, Names }: ListedContainer): string {
  return Names[0]?.slice(1) ?? Id;
}
