/**
 * The OCI bundle of a container whose `create` is held: reads what the engine prepared, and rewrites it so that runc restores
 * into a network namespace which exists already.
 */
import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import * as z from "zod";
import { DmigrateError } from "../../core/errors.ts";

const hook = z.object({ path: z.string(), args: z.array(z.string()).optional(), env: z.array(z.string()).optional() });
/** A program that an engine wants to be run while a container is made (OCI runtime specification, "POSIX-platform Hooks"). */
export type Hook = z.infer<typeof hook>;

const hooks = z.looseObject({ prestart: z.array(hook).optional(), createRuntime: z.array(hook).optional() });
const namespace = z.looseObject({ type: z.string(), path: z.string().optional() });
const config = z.looseObject({
  root: z.looseObject({ path: z.string() }),
  hooks: hooks.optional(),
  annotations: z.record(z.string(), z.string()).optional(),
  linux: z.looseObject({ namespaces: z.array(namespace) }),
});

/** Annotation that tells runc where CRIU's configuration for this container lies. */
const CRIU_CONFIGURATION = "org.criu.config";

/** A held container's bundle. */
export interface Bundle {
  readonly folder: string;
  /** Where the container's root is mounted. */
  readonly rootfs: string;
  /** What runc would run as it makes the network namespace. */
  readonly networkHooks: readonly Hook[];
  /** Writes the configuration for the restore: the namespace by path, the hooks gone since they have run, CRIU's options. */
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
  const parsed = config.parse(JSON.parse(await readFile(file, "utf8")));
  const rewrite = async (netnsPath: string, criuConfiguration: string): Promise<void> => {
    const { prestart: _, createRuntime: __, ...otherHooks } = parsed.hooks ?? {};
    const namespaces = parsed.linux.namespaces.map((each) => (each.type === "network" ? { ...each, path: netnsPath } : each));
    const annotations = { ...parsed.annotations, [CRIU_CONFIGURATION]: criuConfiguration };
    await writeFile(file, JSON.stringify({ ...parsed, hooks: otherHooks, annotations, linux: { ...parsed.linux, namespaces } }));
  };
  return {
    folder,
    rootfs: path.resolve(folder, parsed.root.path),
    networkHooks: [...(parsed.hooks?.prestart ?? []), ...(parsed.hooks?.createRuntime ?? [])],
    rewrite,
  };
}
