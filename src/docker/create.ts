/**
 * Makes a container from its description: the create request, and what came of it compared with what was asked for.
 */
import { isDeepStrictEqual } from "node:util";
import { containerId, type ContainerId } from "../core/ids.ts";
import { cleanPath, describe } from "./describe.ts";
import type { ContainerDescription, ImageDescription, VolumeDescription } from "./description.ts";
import type { Engine } from "./engine.ts";
import type { ContainerConfig, CreatedContainer, Endpoint, HostConfig } from "./inspect.ts";
import { stringifyExact } from "../core/json.ts";
import { NEVER_RESTART } from "./lifecycle.ts";
import { allowAddresses } from "./networks.ts";
import { isNotFound, refusalOf } from "./transport.ts";

/** What may be chosen for a container that is made from its description. */
export interface CreateOptions {
  /** Name of the OCI runtime. */
  readonly runtime: string;
  /** What to call the image: its reference or its id. */
  readonly image: string;
}

/** Body of `POST /containers/create`. */
export interface CreateRequest extends Partial<ContainerConfig> {
  readonly HostConfig: HostConfig;
  readonly NetworkingConfig: { readonly EndpointsConfig: Readonly<Record<string, Endpoint>> };
}

/**
 * The request that makes the same container. It will never start again by itself, for until a migration is committed nobody but the
 * migration may start it; `setRestartPolicy` gives it its own policy then.
 */
export function createRequest(description: ContainerDescription, { runtime, image }: CreateOptions): CreateRequest {
  const { config, hostConfig, endpoints, volumes } = description;
  return {
    ...requestedConfig(config, hostConfig),
    Image: image,
    HostConfig: { ...hostConfig, ...requestedMounts(hostConfig, volumes), Runtime: runtime, RestartPolicy: NEVER_RESTART },
    NetworkingConfig: { EndpointsConfig: endpoints },
  };
}

/**
 * `Config` shows what came of the request and the image; sent back, it must come to the same (moby's daemon/commit.go, `merge`). The
 * host name stays the source's short id where that was the default, for the processes have it.
 */
function requestedConfig(config: ContainerConfig, { UTSMode }: HostConfig): Partial<ContainerConfig> {
  // Shown for old clients only; the endpoint has it.
  const { MacAddress: _, Hostname, Entrypoint, ...rest } = config;
  return {
    ...rest,
    // With the host's UTS namespace the engine allows none and shows one all the same.
    ...(UTSMode === "host" ? {} : { Hostname }),
    // null would mean the image's entry point; the empty one means none.
    Entrypoint: Entrypoint ?? [""],
  };
}

/** Volumes that had no name in the request get the one they have. */
function requestedMounts({ Binds, Mounts }: HostConfig, volumes: readonly VolumeDescription[]): Pick<HostConfig, "Binds" | "Mounts"> {
  const unnamed = new Map(volumes.filter(({ anonymous }) => anonymous).map(({ destination, name }) => [destination, name]));
  const take = (destination: string): string | undefined => {
    const name = unnamed.get(cleanPath(destination));
    unnamed.delete(cleanPath(destination));
    return name;
  };
  const binds = Binds?.map((bind) => {
    const name = bind.includes(":") ? undefined : take(bind);
    return name === undefined ? bind : `${name}:${bind}`;
  });
  const mounts = (Mounts ?? []).map((mount) => {
    const name = mount.Type === "volume" && (mount.Source ?? "") === "" ? take(mount.Target) : undefined;
    return name === undefined ? mount : Object.assign({}, mount, { Source: name });
  });
  // What is left comes from the image, or from `--volume PATH`.
  const rest = [...unnamed].map(([Target, Source]) => ({ Type: "volume", Source, Target }));
  return { Binds: binds, Mounts: [...mounts, ...rest] };
}

/** A container that was made, and what of the description this engine could not do. */
export interface MadeContainer {
  readonly id: ContainerId;
  readonly warnings: readonly string[];
}

/**
 * Makes the container on this engine. Its image, networks and volumes must be there.
 * @param created is called as soon as it exists, before anything is asked of it that waits for who starts it; it is there from then on,
 * also if this throws
 * Throws NETWORK if a network has another container and can't give addresses that are asked for, DOCKER.
 */
export async function createContainer(
  engine: Engine,
  description: ContainerDescription,
  runtime: string,
  created: (id: ContainerId) => Promise<void> = () => Promise.resolve(),
): Promise<MadeContainer> {
  const image = await imageHere(engine, description.image);
  const options = { runtime, image: image.name };
  const request = createRequest(description, options);
  const { Id, Warnings } = await create(engine, description, request);
  const id = containerId(Id);
  await created(id);
  const made = createRequest(await describe(engine, id), options);
  return { id, warnings: [...(Warnings ?? []), ...image.warnings, ...differences(request, made)] };
}

/** How it is asked for: by its reference if that means the same image here, so that `docker ps` shows it; by its id otherwise. */
interface ImageHere {
  readonly name: string;
  readonly warnings: readonly string[];
}

async function imageHere(engine: Engine, { id, reference }: ImageDescription): Promise<ImageHere> {
  try {
    if ((await engine.inspectImage(reference)).Id === id) return { name: reference, warnings: [] };
    const text = `${reference} is another image on the target: docker ps shows this one by its id, there and wherever it moves next`;
    return { name: id, warnings: [text] };
  } catch (error) {
    if (isNotFound(error)) return { name: id, warnings: [] };
    throw error;
  }
}

async function create(engine: Engine, description: ContainerDescription, request: CreateRequest): Promise<CreatedContainer> {
  try {
    return await engine.createContainer(description.name, request);
  } catch (error) {
    // moby's api/types/network/endpoint.go, validateEndpointIPAddress; it names each network.
    const refusal = refusalOf(error)?.message ?? "";
    if (!refusal.includes("only when connecting to networks with user configured subnets")) throw error;
    for (const { name } of description.networks) if (refusal.includes(`network ${name}:`)) await allowAddresses(engine, name);
    return await engine.createContainer(description.name, request);
  }
}

/** Where `made` says something else than `wanted`, in words. Whatever is nothing equals whatever else is nothing: null, 0, "", []. */
export function differences(wanted: unknown, made: unknown, path = ""): string[] {
  if (isNothing(wanted) && isNothing(made)) return [];
  if (isRecord(wanted) && isRecord(made)) {
    const keys = new Set([...Object.keys(wanted), ...Object.keys(made)]);
    return [...keys].flatMap((key) => differences(wanted[key], made[key], path === "" ? key : `${path}.${key}`));
  }
  return isDeepStrictEqual(wanted, made)
    ? []
    : [`${path} became ${stringifyExact(made ?? null)} instead of ${stringifyExact(wanted ?? null)}`];
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isNothing(value: unknown): boolean {
  if (Array.isArray(value)) return value.length === 0;
  return isRecord(value) ? Object.values(value).every(isNothing) : !value;
}
