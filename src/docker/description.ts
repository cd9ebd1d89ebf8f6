/**
 * The description of a container: everything another host's engine needs to make the same container. The source writes it, the target
 * reads and checks it.
 */
import * as z from "zod";
import { DmigrateError } from "../core/errors.ts";
import { containerId } from "../core/ids.ts";
import { containerConfig, digest, endpoint, hostConfig } from "./inspect.ts";
import { parseExact, stringifyExact } from "../core/json.ts";

/** moby's `RestrictedNameChars`, for containers and volumes. */
const name = z.string().regex(/^[a-zA-Z0-9][a-zA-Z0-9_.-]+$/);
/** Becomes part of a request's path. */
const networkName = z.string().regex(/^[^./][^/]*$/);
const imageName = z.string().regex(/^[^./\s][^/\s]*(\/[^./\s][^/\s]*)*$/);
const stringMap = z.record(z.string(), z.string());

const image = z.object({
  id: digest,
  /** As the container was created with it: a name, a name with a digest, an id. */
  reference: imageName,
  /** All names it has on the source, `REPOSITORY:TAG`. */
  tags: z.array(imageName.regex(/:[^:/]+$/)),
  /** Diff ids from the bottom (OCI image specification, `rootfs.diff_ids`). */
  layers: z.array(digest),
});
/** The image of a container. */
export type ImageDescription = z.infer<typeof image>;

const volume = z.object({
  name,
  driver: z.string(),
  options: stringMap,
  labels: stringMap,
  /** Made for this container alone, because its image or `--volume PATH` asks for some volume there. */
  anonymous: z.boolean(),
  /** Path in the container; the engine takes also what is none, like `d:/x` of `--volume d:/x`. */
  destination: z.string(),
});
/** A volume of a container. */
export type VolumeDescription = z.infer<typeof volume>;

const network = z.object({
  name: networkName,
  driver: z.string(),
  enableIPv4: z.boolean(),
  enableIPv6: z.boolean(),
  internal: z.boolean(),
  attachable: z.boolean(),
  ipam: z.object({
    driver: z.string(),
    options: stringMap,
    subnets: z.array(z.looseObject({ Subnet: z.string(), IPRange: z.string().optional(), Gateway: z.string().optional() })),
  }),
  options: stringMap,
  labels: stringMap,
});
/** A network that was made on its host, not one that every engine has. */
export type NetworkDescription = z.infer<typeof network>;

const description = z.object({
  /** On the source. */
  id: z.string().transform(containerId),
  name,
  image,
  /** `Config` and `HostConfig` of the inspection, but networks go by name. */
  config: containerConfig,
  hostConfig,
  /** By network: what to ask for to get the same addresses. */
  endpoints: z.record(networkName, endpoint),
  /** Addresses that no engine can be asked for, because they are the default bridge's to give. */
  floatingAddresses: z.array(z.string()),
  networks: z.array(network),
  volumes: z.array(volume),
  /** Why it can't run without other containers of its host: "cause; remedy" each. */
  unmovable: z.array(z.string()),
});
/** What a container is, apart from its files and its running state. */
export type ContainerDescription = z.infer<typeof description>;

/** A description as text, for the wire. */
export function writeDescription(value: ContainerDescription): string {
  return stringifyExact(value);
}

/** Reads and checks what `writeDescription` wrote. Throws PROTOCOL. */
export function readDescription(text: string): ContainerDescription {
  try {
    return description.parse(parseExact(text));
  } catch (error) {
    const why = error instanceof z.ZodError ? z.prettifyError(error) : String(error);
    throw new DmigrateError("PROTOCOL", `Malformed description of a container: ${why}; update both agents to the same release`, error);
  }
}
