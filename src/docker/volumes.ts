/**
 * Makes sure that a volume is there with the settings a container had it with.
 */
import { stat } from "node:fs/promises";
import { DmigrateError } from "../core/errors.ts";
import type { VolumeStorage } from "../core/preflight-facts.ts";
import type { VolumeDescription } from "./description.ts";
import type { Engine } from "./engine.ts";
import type { InspectedVolume } from "./inspect.ts";
import { isNotFound } from "./transport.ts";

/** A volume that is there. */
export interface EnsuredVolume {
  /** True if it was created; otherwise it may hold files already. */
  readonly created: boolean;
  /** Its folder on the host. */
  readonly path: string;
}

/**
 * Creates the volume, empty, unless it exists.
 * @param beforeCreate called first, so that a rollback knows what it may have to remove
 * @throws ROOTFS if there is one of that name with another driver or other options, DOCKER
 */
export async function ensureVolume(engine: Engine, wanted: VolumeDescription, beforeCreate: () => void = () => {}): Promise<EnsuredVolume> {
  const existing = await findVolume(engine, wanted.name);
  if (existing === undefined) {
    const { name, driver, options, labels } = wanted;
    beforeCreate();
    const { Mountpoint } = await engine.createVolume({ Name: name, Driver: driver, DriverOpts: options, Labels: labels });
    return { created: true, path: Mountpoint };
  }
  const differences = volumeDifferences(wanted, existing);
  if (differences.length === 0) return { created: false, path: existing.Mountpoint };
  throw new DmigrateError(
    "ROOTFS",
    `Volume ${wanted.name} of this host differs from the container's: ${differences.join(", ")}; ` +
      `remove it (\`docker volume rm ${wanted.name}\`) if nobody needs it, or give one of the two another name`,
  );
}

/** File systems that hosts share. */
const NETWORK_FILE_SYSTEM = /^(nfs4?|cifs|smb3|ceph|glusterfs|lustre|9p|fuse\..+)$/;

/** Of the driver `local` this knows what its options mean (moby's volume/local); another driver's is taken for shared. */
export function storageOf({ driver, options }: Pick<VolumeDescription, "driver" | "options">): VolumeStorage {
  const { type = "", device = "", o = "" } = options;
  if (driver !== "local" || NETWORK_FILE_SYSTEM.test(type)) return "shared";
  if (type === "" && device === "") return "folder"; // it mounts nothing: `size` and the like are for the folder
  if (o.split(",").some((option) => option === "bind" || option === "rbind")) return "bind";
  return type === "tmpfs" || type === "ramfs" ? "memory" : "device";
}

/** Whether a volume's files come along. */
export function liesOnHost(volume: VolumeDescription): boolean {
  return storageOf(volume) === "folder";
}

/** Tells a volume whose files lie on this host from a later one of the same name. Throws DOCKER. */
export async function volumeIdentity(engine: Engine, name: string): Promise<string> {
  const { ino, birthtimeNs } = await stat((await engine.inspectVolume(name)).Mountpoint, { bigint: true });
  return `${ino}-${birthtimeNs}`;
}

/** In what a volume that exists differs from a wanted one; labels are for people. */
export function volumeDifferences(wanted: VolumeDescription, existing: Pick<InspectedVolume, "Driver" | "Options">): string[] {
  const here = existing.Options ?? {};
  const names = new Set([...Object.keys(wanted.options), ...Object.keys(here)]);
  const aspects = [
    ["driver", wanted.driver, existing.Driver] as const,
    ...[...names].map((name) => [`option ${name}`, wanted.options[name], here[name]] as const),
  ];
  return aspects
    .filter(([, there, value]) => there !== value)
    .map(([what, there, value]) => `${what} is ${value ?? "not set"} instead of ${there ?? "not set"}`);
}

async function findVolume(engine: Engine, name: string): Promise<InspectedVolume | undefined> {
  try {
    return await engine.inspectVolume(name);
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}
