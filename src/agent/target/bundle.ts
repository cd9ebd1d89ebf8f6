/**
 * The OCI bundle of a container whose `create` is held: reads what the engine prepared, and rewrites it so that runc restores
 * into a network namespace which exists already.
 */
import { readFile, realpath, writeFile } from "node:fs/promises";
import path from "node:path";
import * as z from "zod";
import { DmigrateError } from "../../core/errors.ts";
import { parseExact, stringifyExact } from "../../core/json.ts";
import { cgroupOf } from "../../criu/cgroups.ts";
import { CONFIGURATION_LABEL } from "../../criu/configuration.ts";

const hook = z.object({ path: z.string(), args: z.array(z.string()).optional(), env: z.array(z.string()).optional() });
/** A program that an engine wants to be run while a container is made (OCI runtime specification, "POSIX-platform Hooks"). */
export type Hook = z.infer<typeof hook>;

const hooks = z.looseObject({ prestart: z.array(hook).optional(), createRuntime: z.array(hook).optional() });
const namespace = z.looseObject({ type: z.string(), path: z.string().optional() });
const mount = z.looseObject({ type: z.string().optional(), source: z.string().optional(), destination: z.string() });
const config = z.looseObject({
  root: z.looseObject({ path: z.string(), readonly: z.boolean().default(false) }),
  mounts: z.array(mount).optional(),
  hooks: hooks.optional(),
  annotations: z.record(z.string(), z.string()).optional(),
  linux: z.looseObject({
    namespaces: z.array(namespace),
    sysctl: z.record(z.string(), z.string()).optional(),
    cgroupsPath: z.string(),
  }),
});

/** A held container's bundle. */
export interface Bundle {
  readonly folder: string;
  /** Where the container's root is mounted. */
  readonly rootfs: string;
  /** Whether the container sees its root so. */
  readonly isReadOnly: boolean;
  /** What runc would run as it makes the network namespace. */
  readonly networkHooks: readonly Hook[];
  /** Kernel parameters of the network namespace, by dotted name: what runc would set in a namespace that it made itself. */
  readonly networkSysctls: Readonly<Record<string, string>>;
  /** The container's cgroup, from the root of every hierarchy. */
  readonly cgroup: string;
  /** Where the container sees the host's cgroups; undefined if it has a cgroup namespace. */
  readonly cgroupsSeenAt: string | undefined;
  /**
   * Writes the configuration for the restore: the namespace by path, the hooks gone since they have run, CRIU's options, and the sources
   * of bind mounts without symbolic links, which CRIU would mount as such (criu/mount-v2.c, AT_SYMLINK_NOFOLLOW).
   */
  rewrite(netnsPath: string, criuConfiguration: string): Promise<void>;
}

/**
 * Reads the bundle that the arguments of a held `create` name.
 * @param args one a line, as the runtime wrote them
 */
export async function readBundle(args: string): Promise<Bundle> {
  const list = args.split("\n");
  const folder = list[list.indexOf("--bundle") + 1];
  if (!list.includes("--bundle") || folder === undefined) {
    throw new DmigrateError(
      "RESTORE_FAILED",
      "The container engine called `create` without --bundle; it is of a kind this release does not know",
    );
  }
  const file = path.join(folder, "config.json");
  const parsed = config.parse(parseExact(await readFile(file, "utf8")));
  const rewrite = async (netnsPath: string, criuConfiguration: string): Promise<void> => {
    const { prestart: _, createRuntime: __, ...otherHooks } = parsed.hooks ?? {};
    const namespaces = parsed.linux.namespaces.map((each) => (each.type === "network" ? { ...each, path: netnsPath } : each));
    const annotations = { ...parsed.annotations, [CONFIGURATION_LABEL]: criuConfiguration };
    const mounts = await Promise.all((parsed.mounts ?? []).map(withoutLinks));
    await writeFile(file, stringifyExact({ ...parsed, mounts, hooks: otherHooks, annotations, linux: { ...parsed.linux, namespaces } }));
  };
  return {
    folder,
    rootfs: path.resolve(folder, parsed.root.path),
    isReadOnly: parsed.root.readonly,
    networkHooks: [...(parsed.hooks?.prestart ?? []), ...(parsed.hooks?.createRuntime ?? [])],
    cgroup: cgroupOf(parsed.linux.cgroupsPath),
    cgroupsSeenAt: cgroupsSeenAt(parsed),
    networkSysctls: Object.fromEntries(Object.entries(parsed.linux.sysctl ?? {}).filter(([name]) => name.startsWith("net."))),
    rewrite,
  };
}

async function withoutLinks(request: z.infer<typeof mount>): Promise<z.infer<typeof mount>> {
  return request.type === "bind" && request.source !== undefined ? { ...request, source: await realpath(request.source) } : request;
}

function cgroupsSeenAt({ mounts = [], linux }: z.infer<typeof config>): string | undefined {
  return linux.namespaces.some(({ type }) => type === "cgroup") ? undefined : mounts.find(({ type }) => type === "cgroup")?.destination;
}
