/**
 * The files that processes keep in memory, in file systems of their own (tmpfs(5)).
 */
import { closeSync, constants, fstatSync, openSync, readFileSync } from "node:fs";
import { setImmediate as letOthersRun } from "node:timers/promises";
import { namesIn, openBeneath, statAt } from "./files.ts";
import { parseMountinfo, type Mount } from "./mountinfo.ts";

const { O_DIRECTORY, O_NOATIME, O_NOFOLLOW, O_NONBLOCK, S_IFDIR, S_IFMT, S_IFREG } = constants;
/** Who looks at a file leaves no trace. */
const OPEN_FLAGS = O_NOATIME | O_NOFOLLOW;

/** A mount of such a file system. */
export interface Tmpfs {
  /** Where this process finds it. */
  readonly folder: string;
  /** Of its files (stat(2), `st_dev`). */
  readonly device: number;
}

/** Those that a process sees, each once, and this process does not. Throws ENOENT or ESRCH if it has ended. */
export function tmpfsOf(pid: number): Tmpfs[] {
  const ours = new Set(mountsOf("self").map(({ device }) => device));
  const theirs = mountsOf(pid).filter(({ type, root, device }) => type === "tmpfs" && root === "/" && !ours.has(device));
  const byDevice = new Map(theirs.map(({ device, path }) => [device, { folder: `/proc/${pid}/root${path}`, device: numberOf(device) }]));
  return [...byDevice.values()];
}

/**
 * Opens the files in it, one after the other, each until the next one is asked for. Whoever changes its folders meanwhile may have some
 * left out, but leads nowhere else. Throws KERNEL.
 */
export async function* filesIn({ folder, device }: Tmpfs): AsyncGenerator<number, void> {
  let root: number;
  try {
    root = openSync(folder, OPEN_FLAGS | O_DIRECTORY);
  } catch {
    return; // its processes have ended, or unmounted it
  }
  yield* filesBelow(root, device);
}

/** @param folder is closed at the end */
async function* filesBelow(folder: number, device: number): AsyncGenerator<number, void> {
  try {
    if (fstatSync(folder).dev !== device) return; // something else is mounted there
    await letOthersRun();
    for (const name of namesIn(folder)) {
      const kind = (statAt(folder, name)?.mode ?? 0) & S_IFMT;
      const isFolder = kind === S_IFDIR;
      if (!isFolder && kind !== S_IFREG) continue;
      const fd = openBeneath(folder, name, OPEN_FLAGS | (isFolder ? O_DIRECTORY : O_NONBLOCK));
      if (fd === undefined) continue;
      if (isFolder) yield* filesBelow(fd, device);
      else yield* file(fd, device);
    }
  } finally {
    closeSync(folder);
  }
}

function* file(fd: number, device: number): Generator<number, void> {
  try {
    if (fstatSync(fd).dev === device) yield fd;
  } finally {
    closeSync(fd);
  }
}

function mountsOf(pid: number | "self"): Mount[] {
  return parseMountinfo(readFileSync(`/proc/${pid}/mountinfo`, "utf8"));
}

/** The number of a device that mountinfo calls `major:minor` (makedev(3)). A tmpfs has the major number 0. */
function numberOf(device: string): number {
  const minor = Number(device.split(":")[1]);
  return (minor & 0xff) + (minor >> 8) * 2 ** 20;
}
