/**
 * Removing a folder in which something may be mounted.
 */
import { execFile } from "node:child_process";
import { readFile, rm } from "node:fs/promises";
import { promisify } from "node:util";
import { parseMountinfo } from "./mountinfo.ts";

/** Removes a folder with all that is in it, and unmounts first what is mounted there. It need not exist. */
export async function removeFolder(folder: string): Promise<void> {
  const mounts = parseMountinfo(await readFile("/proc/self/mountinfo", "utf8")).map((mount) => mount.path);
  for (const mountPoint of mounts.toReversed()) {
    if (mountPoint === folder || mountPoint.startsWith(`${folder}/`)) await promisify(execFile)("umount", ["-l", mountPoint]);
  }
  await rm(folder, { recursive: true, force: true });
}
