/**
 * Files that lie in memory and have no name (memfd_create(2)).
 */
import { declare, must } from "./libc.ts";

const MFD_CLOEXEC = 1;

const create = declare<(name: string, flags: number) => number>("int memfd_create(const char *name, unsigned int flags)");

/**
 * Makes an empty one; returns its descriptor. It takes memory for what is written, page by page, wherever that lies. Throws KERNEL.
 * @param name shows in /proc/PID/fd
 */
export function makeMemoryFile(name: string): number {
  return must("memfd_create", create(name, MFD_CLOEXEC));
}
