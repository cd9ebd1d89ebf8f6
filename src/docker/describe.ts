/**
 * Describes a container: asks the engine for it and all it is made of, and puts down what another engine must be asked for.
 */
import { posix } from "node:path";
import { DmigrateError } from "../core/errors.ts";
import { containerId } from "../core/ids.ts";
import type { ContainerDescription, ImageDescription, NetworkDescription, VolumeDescription } from "./description.ts";
import type { Engine } from "./engine.ts";
import type {
  ContainerConfig,
  Endpoint,
  HostConfig,
  InspectedContainer,
  InspectedEndpoint,
  InspectedImage,
  InspectedNetwork,
  InspectedVolume,
} from "./inspect.ts";
import { isNotFound } from "./transport.ts";

/** A container and all it is made of, as the engine shows them. */
export interface Inspection {
  readonly container: InspectedContainer;
  readonly image: InspectedImage;
  /** By the key of the container's endpoint. */
  readonly networks: ReadonlyMap<string, InspectedNetwork>;
  /** By name. */
  readonly volumes: ReadonlyMap<string, InspectedVolume>;
}

/** Describes a container of this engine. Throws CONTAINER_NOT_FOUND, DOCKER. */
export async function describe(engine: Engine, nameOrId: string): Promise<ContainerDescription> {
  return describeInspection(await inspect(engine, nameOrId));
}

async function inspect(engine: Engine, nameOrId: string): Promise<Inspection> {
  const container = await inspectContainer(engine, nameOrId);
  const endpoints = Object.entries(container.NetworkSettings.Networks);
  const volumes = container.Mounts.flatMap(({ Type, Name }) => (Type === "volume" && Name !== undefined ? [Name] : []));
  return {
    container,
    image: await engine.inspectImage(container.Image),
    networks: new Map(
      await Promise.all(endpoints.map(async ([key, { NetworkID }]) => [key, await engine.inspectNetwork(NetworkID || key)] as const)),
    ),
    volumes: new Map(await Promise.all(volumes.map(async (name) => [name, await engine.inspectVolume(name)] as const))),
  };
}

async function inspectContainer(engine: Engine, nameOrId: string): Promise<InspectedContainer> {
  try {
    return await engine.inspectContainer(nameOrId);
  } catch (error) {
    if (!isNotFound(error)) throw error;
    throw new DmigrateError(
      "CONTAINER_NOT_FOUND",
      `There is no container ${JSON.stringify(nameOrId)} on this host; \`docker ps\` shows those there are`,
      error,
    );
  }
}

/** The description that follows from an inspection. */
export function describeInspection({ container, image, networks, volumes }: Inspection): ContainerDescription {
  const { Id, Name, Config, HostConfig, NetworkSettings } = container;
  const endpoints = Object.entries(NetworkSettings.Networks).map(([key, settings]) => {
    const network = networks.get(key);
    return { network: network?.Name ?? key, settings, custom: network !== undefined && isCustom(network) };
  });
  return {
    id: containerId(Id),
    name: Name.replace(/^\//, ""),
    image: describeImage(image, Config.Image),
    config: Config,
    hostConfig: { ...HostConfig, NetworkMode: modeByName(HostConfig.NetworkMode, networks) },
    endpoints: Object.fromEntries(endpoints.map(({ network, settings, custom }) => [network, wantedEndpoint(settings, custom, container)])),
    floatingAddresses: endpoints.flatMap(({ settings, custom }) => (custom ? [] : addressesOf(settings))),
    networks: [...networks.values()].filter(isCustom).map(describeNetwork),
    volumes: describeVolumes(container, volumes),
    unmovable: unmovable(container, networks),
  };
}

function describeImage(image: InspectedImage, reference: string): ImageDescription {
  return { id: image.Id, reference, tags: image.RepoTags ?? [], layers: image.RootFS.Layers ?? [] };
}

const PREDEFINED = new Set(["bridge", "host", "none"]);

/** False for the networks that every engine has by itself. */
function isCustom(network: InspectedNetwork): boolean {
  return !PREDEFINED.has(network.Name);
}

/** What of a network another host must have, too. */
export function describeNetwork(network: InspectedNetwork): NetworkDescription {
  const { Name, Driver, EnableIPv4, EnableIPv6, Internal, Attachable, IPAM, Options, Labels } = network;
  return {
    name: Name,
    driver: Driver,
    enableIPv4: EnableIPv4 ?? true,
    enableIPv6: EnableIPv6,
    internal: Internal,
    attachable: Attachable,
    ipam: { driver: IPAM.Driver, options: IPAM.Options ?? {}, subnets: (IPAM.Config ?? []).flatMap(describeSubnet) },
    options: Options ?? {},
    labels: Labels ?? {},
  };
}

/** The gateway of an IPv6 subnet that the engine chose itself comes with its prefix length, which no request may have. */
function describeSubnet<S extends { Subnet?: string | undefined; Gateway?: string | undefined }>(subnet: S): (S & { Subnet: string })[] {
  const { Subnet, Gateway } = subnet;
  if (Subnet === undefined) return [];
  return [{ ...subnet, Subnet, ...(Gateway === undefined ? {} : { Gateway: Gateway.replace(/\/\d+$/, "") }) }];
}

/** A network may have been given by its id, which is another one elsewhere. */
function modeByName(mode: string, networks: ReadonlyMap<string, InspectedNetwork>): string {
  if (PREDEFINED.has(mode) || mode.includes(":")) return mode;
  const all = [...networks.values()];
  return (all.find(({ Name }) => Name === mode) ?? all.find(({ Id }) => Id.startsWith(mode)))?.Name ?? mode;
}

/** What the engine fills in when the container starts. */
const OPERATIONAL = new Set([
  "NetworkID",
  "EndpointID",
  "Gateway",
  "IPAddress",
  "IPPrefixLen",
  "IPv6Gateway",
  "GlobalIPv6Address",
  "GlobalIPv6PrefixLen",
  "DNSNames",
]);

/**
 * The settings that get a container the endpoint it has: a MAC address or address that the engine chose becomes one that is asked for.
 * On the default bridge, where it gets another address, it gets another MAC address, too: engines like 26.1 make one of the address,
 * and the old one would be given to a second container there.
 */
function wantedEndpoint(settings: InspectedEndpoint, custom: boolean, { Id, Config }: InspectedContainer): Endpoint {
  const kept = Object.fromEntries(Object.entries(settings).filter(([key]) => !OPERATIONAL.has(key)));
  return {
    ...kept,
    Aliases: withoutOwnNames(settings.Aliases, Id),
    IPAMConfig: custom ? fixedAddresses(settings) : settings.IPAMConfig,
    MacAddress: custom || wasAskedFor(settings, Config) ? settings.MacAddress : undefined,
  };
}

/** Whether its MAC address was: an endpoint that has no address was never started, and shows no other. */
function wasAskedFor(settings: InspectedEndpoint, config: ContainerConfig): boolean {
  return addressesOf(settings).length === 0 || settings.MacAddress === config.MacAddress;
}

function fixedAddresses({ IPAMConfig, IPAddress, GlobalIPv6Address }: InspectedEndpoint): Endpoint["IPAMConfig"] {
  if (IPAddress === "" && GlobalIPv6Address === "") return IPAMConfig;
  return {
    ...IPAMConfig,
    ...(IPAddress === "" ? {} : { IPv4Address: IPAddress }),
    ...(GlobalIPv6Address === "" ? {} : { IPv6Address: GlobalIPv6Address }),
  };
}

/** API 1.44 shows the container's own names among the aliases: its short id, and its host name after that. */
function withoutOwnNames(aliases: Endpoint["Aliases"], id: string): Endpoint["Aliases"] {
  const own = aliases?.indexOf(id.slice(0, 12)) ?? -1;
  return own === -1 ? aliases : aliases?.slice(0, own);
}

function addressesOf({ IPAddress, GlobalIPv6Address }: InspectedEndpoint): string[] {
  return [IPAddress, GlobalIPv6Address].filter((address) => address !== "");
}

function describeVolumes(container: InspectedContainer, volumes: ReadonlyMap<string, InspectedVolume>): VolumeDescription[] {
  const named = namedDestinations(container.HostConfig);
  return container.Mounts.flatMap(({ Name, Destination }) => {
    const volume = volumes.get(Name ?? "");
    if (volume === undefined) return [];
    const { Driver, Options, Labels } = volume;
    const anonymous = !named.has(Destination);
    return [{ name: volume.Name, driver: Driver, options: Options ?? {}, labels: Labels ?? {}, anonymous, destination: Destination }];
  });
}

/** Where a mount was asked for with what to mount there. */
function namedDestinations({ Binds, Mounts }: HostConfig): Set<string> {
  const bound = (Binds ?? []).flatMap((bind) => bind.split(":")[1] ?? []);
  const mounted = (Mounts ?? []).flatMap(({ Source, Target }) => (Source === undefined || Source === "" ? [] : [Target]));
  return new Set([...bound, ...mounted].map(cleanPath));
}

/** A path as Go's path.Clean makes it, which is how the engine keeps destinations. */
export function cleanPath(path: string): string {
  const normal = posix.normalize(path);
  return normal.length > 1 && normal.endsWith("/") ? normal.slice(0, -1) : normal;
}

function unmovable({ HostConfig, Mounts }: InspectedContainer, networks: ReadonlyMap<string, InspectedNetwork>): string[] {
  const { Links, VolumesFrom } = HostConfig;
  const shared = [
    ["network namespace", HostConfig.NetworkMode],
    ["IPC namespace", HostConfig.IpcMode],
    ["PID namespace", HostConfig.PidMode],
    ["cgroup", HostConfig.Cgroup],
  ] as const;
  return [
    ...shared.flatMap(([what, mode]) => {
      const other = /^container:(.*)$/.exec(mode)?.[1];
      return other === undefined ? [] : [`It shares the ${what} of container ${other.slice(0, 12)}, which stays; give it its own`];
    }),
    ...(Links ?? []).map(
      (link) =>
        `It is linked to container ${link.split(":")[0]?.slice(1)}, which stays; use a network that both hosts reach instead of --link`,
    ),
    ...(VolumesFrom ?? []).map(
      (from) => `It mounts the volumes of container ${from.split(":")[0]}, which stays; mount them by name instead of --volumes-from`,
    ),
    ...[...networks.values()]
      .filter(({ Scope }) => Scope === "swarm")
      .map(
        ({ Name }) =>
          `Its addresses on network ${Name} belong to the Swarm, which does not give them to two hosts; use a macvlan or bridge network`,
      ),
    ...Mounts.filter(({ Type }) => !["bind", "volume", "tmpfs"].includes(Type)).map(
      ({ Type, Destination }) => `It has a mount of type ${Type} at ${Destination}, which Dmigrate can't copy; use a volume`,
    ),
    ...Mounts.filter(({ Destination }) => !Destination.startsWith("/")).map(
      ({ Destination }) => `It has a mount at ${Destination}, which is no absolute path; name one that begins with /`,
    ),
  ];
}
