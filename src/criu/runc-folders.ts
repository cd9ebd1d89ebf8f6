/**
 * Where runc keeps what it knows of Docker's containers: a folder for each, in one for each namespace of containerd, `moby` or, with
 * userns-remap, `moby-UID.GID`.
 */
import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import path from "node:path";
import type { ContainerId } from "../core/ids.ts";

export const RUNC_ROOTS = "/run/docker/runtime-runc";

/** The folders of a container; there are none if runc does not know it. */
export async function runcFoldersOf(container: ContainerId): Promise<string[]> {
  const namespaces = existsSync(RUNC_ROOTS) ? await readdir(RUNC_ROOTS) : [];
  return namespaces.map((namespace) => path.join(RUNC_ROOTS, namespace, container)).filter((folder) => existsSync(folder));
}
