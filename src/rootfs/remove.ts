/**
 * Removing files with everything below them.
 */
import { closeSync, constants } from "node:fs";
import { namesIn, openBeneath, removeDirectoryAt, statAt, unlinkAt } from "../kernel/files.ts";
import { typeOfMode } from "./inode.ts";
import { openRoot } from "./scan.ts";

/** Removes a name in a directory and, if it is one, everything in it. Throws KERNEL. */
export function removeTree(directory: number, name: string): void {
  const stat = statAt(directory, name);
  if (stat === undefined || typeOfMode(stat.mode) !== "directory") {
    unlinkAt(directory, name);
    return;
  }
  const fd = openBeneath(directory, name, constants.O_RDONLY | constants.O_DIRECTORY);
  if (fd === undefined) return;
  try {
    clearDirectory(fd);
  } finally {
    closeSync(fd);
  }
  removeDirectoryAt(directory, name);
}

/** Removes everything in an open directory. Throws KERNEL. */
export function clearDirectory(directory: number): void {
  for (const name of namesIn(directory)) removeTree(directory, name);
}

/** Removes everything in a directory. For an overlay's upper directory only while it is not mounted. Throws ROOTFS, KERNEL. */
export function clearTree(root: string): void {
  const fd = openRoot(root);
  try {
    clearDirectory(fd);
  } finally {
    closeSync(fd);
  }
}
