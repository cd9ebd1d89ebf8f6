/**
 * Makes sure that a network is there with the settings a container had it with.
 */
import { DmigrateError } from "../core/errors.ts";
import { describeNetwork } from "./describe.ts";
import type { NetworkDescription } from "./description.ts";
import type { Engine } from "./engine.ts";
import { isNotFound } from "./transport.ts";

/**
 * Creates the network unless it exists.
 * @param beforeCreate called first, so that a rollback knows what it may have to remove
 * @throws NETWORK if there is one of that name with other settings, DOCKER
 */
export async function ensureNetwork(engine: Engine, wanted: NetworkDescription, beforeCreate: () => void = () => {}): Promise<void> {
  const existing = await findNetwork(engine, wanted.name);
  if (existing === undefined) {
    beforeCreate();
    return await createNetwork(engine, wanted);
  }
  const differences = networkDifferences(wanted, existing);
  if (differences.length === 0) return;
  throw new DmigrateError(
    "NETWORK",
    `Network ${wanted.name} of this host differs from the container's: ${differences.join(", ")}; ` +
      `remove it (\`docker network rm ${wanted.name}\`) so that it is made anew, or give one of the two another name`,
  );
}

/**
 * Makes a network give out addresses that are asked for. The engine does so only for subnets that were asked for themselves, and shows
 * no difference, so a network that chose its subnet is replaced by one that asks for the same.
 * @throws NETWORK if a container uses it, DOCKER
 */
export async function allowAddresses(engine: Engine, name: string): Promise<void> {
  const users = await engine.listContainers({ all: true, filters: { network: [name] } });
  if (users.length > 0) {
    const names = users.map(({ Id, Names }) => Names[0]?.slice(1) ?? Id).join(", ");
    throw new DmigrateError(
      "NETWORK",
      `Network ${name} of this host was created without --subnet, so no container can ask for its address on it, and ${names} uses it; ` +
        `create it again with --subnet`,
    );
  }
  const network = describeNetwork(await engine.inspectNetwork(name));
  await engine.removeNetwork(name);
  await createNetwork(engine, network);
}

/** The subnets that an engine gives out by itself, unless it was configured otherwise (moby's libnetwork/ipamutils). */
const DEFAULT_POOLS = /^(172\.(1[7-9]|2\d|3[01])\.0\.0\/16|192\.168\.\d+\.0\/20)$/;

/** Whether a network looks as if it had chosen its subnet, so that no container can ask for an address on it. */
export function mayHaveChosenSubnet({ ipam }: NetworkDescription): boolean {
  return ipam.subnets.some(({ Subnet, Gateway }) => DEFAULT_POOLS.test(Subnet) && Gateway === Subnet.replace(/\.0\/\d+$/, ".1"));
}

/** In what a network that exists differs from a wanted one, as far as a container on it can tell. */
export function networkDifferences(wanted: NetworkDescription, existing: NetworkDescription): string[] {
  const aspects = [
    ["driver", wanted.driver, existing.driver],
    ["IPv6", wanted.enableIPv6, existing.enableIPv6],
    ["internal", wanted.internal, existing.internal],
    ["address management", wanted.ipam.driver, existing.ipam.driver],
    ["subnets", subnetsOf(wanted), subnetsOf(existing)],
    ...gateways(wanted, existing),
    ...[...new Set([...optionNames(wanted), ...optionNames(existing)])].map(
      (option) => [`option ${option}`, wanted.options[option], existing.options[option]] as const,
    ),
  ] as const;
  return aspects
    .filter(([, there, here]) => there !== here)
    .map(([what, there, here]) => `${what} is ${shown(here)} instead of ${shown(there)}`);
}

function shown(value: string | boolean | undefined): string {
  return value === undefined || value === "" ? "not set" : String(value);
}

function subnetsOf({ ipam }: NetworkDescription): string {
  return ipam.subnets
    .map(({ Subnet }) => Subnet)
    .toSorted()
    .join(" and ");
}

/** A gateway that was not asked for is the subnet's first address, and shown on some networks only. */
function gateways(wanted: NetworkDescription, existing: NetworkDescription): (readonly [string, string, string])[] {
  return wanted.ipam.subnets.flatMap(({ Subnet, Gateway: there = "" }) => {
    const here = existing.ipam.subnets.find((subnet) => subnet.Subnet === Subnet)?.Gateway ?? "";
    return there === "" || here === "" ? [] : [[`gateway of ${Subnet}`, there, here] as const];
  });
}

/** Options about the host rather than the network: its interfaces and addresses, and what newer engines repeat of other settings. */
const HOST_OPTIONS = new Set([
  "parent",
  "com.docker.network.bridge.name",
  "com.docker.network.bridge.host_binding_ipv4",
  "com.docker.network.enable_ipv4",
  "com.docker.network.enable_ipv6",
]);

function optionNames({ options }: NetworkDescription): string[] {
  return Object.keys(options).filter((option) => !HOST_OPTIONS.has(option));
}

async function findNetwork(engine: Engine, name: string): Promise<NetworkDescription | undefined> {
  try {
    const network = await engine.inspectNetwork(name);
    // The engine also finds networks by the beginning of their id.
    return network.Name === name ? describeNetwork(network) : undefined;
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

async function createNetwork(engine: Engine, network: NetworkDescription): Promise<void> {
  await engine.createNetwork({
    Name: network.name,
    Driver: network.driver,
    EnableIPv4: network.enableIPv4,
    EnableIPv6: network.enableIPv6,
    Internal: network.internal,
    Attachable: network.attachable,
    IPAM: { Driver: network.ipam.driver, Options: network.ipam.options, Config: network.ipam.subnets },
    Options: network.options,
    Labels: network.labels,
  });
}
