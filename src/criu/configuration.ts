/**
 * CRIU options as lines of its configuration file: what every migration needs, and what makes the freeze short.
 * A configuration file overrides the options that runc sends over RPC (criu(8), "Configuration files in RPC mode").
 */

/** Label or annotation of a container by which runc knows where CRIU's configuration for it lies (libcontainer/criu_linux.go). */
export const CONFIGURATION_LABEL = "org.criu.config";

/** Our own lock holds what clients send instead of dropping it (src/network), and spares two iptables processes. */
const COMMON = ["network-lock skip"];

/** For the page server: CRIU ignores the address that comes over RPC in a lazy dump (criu/cr-service.c) and would listen to everybody. */
const LISTEN = "address 127.0.0.1";

/**
 * For the dump. The container's network namespace is declared external, so that CRIU neither dumps its devices nor makes a
 * new one at the restore.
 * @param netnsInode inode number of the container's network namespace
 * @param needed what the preflight found that this container needs
 */
export function dumpConfiguration(netnsInode: number, needed: readonly string[]): string {
  return lines([...COMMON, LISTEN, `external net[${netnsInode}]:${NETNS_KEY}`, ...needed]);
}

/**
 * For the restore.
 * @param holdScript path of the action script that keeps restored tasks frozen
 */
export function restoreConfiguration(holdScript: string, needed: readonly string[]): string {
  return lines([...COMMON, `action-script ${holdScript}`, ...needed]);
}

/**
 * More for the restore: files that CRIU has inherited, each by the name of the file in the images that it takes the place of.
 * @param names by the descriptors that CRIU has
 */
export function inheritedFiles(names: ReadonlyMap<number, string>): string {
  return lines([...names].map(([fd, name]) => `inherit-fd fd[${fd}]:${name}`));
}

/** The key under which runc looks for an external network namespace (libcontainer/criu_linux.go). */
const NETNS_KEY = "extRootNetNS";

function lines(options: readonly string[]): string {
  return `${options.join("\n")}\n`;
}
