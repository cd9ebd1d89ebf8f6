/**
 * The cgroup hierarchies that a container sees below /sys/fs/cgroup on a host with cgroup v1. Pure.
 *
 * Without a cgroup namespace these are bind mounts of its own cgroups, and at a restore runc tells CRIU to take those that runc itself
 * is in (libcontainer/rootfs_linux.go, getCgroupMounts): limits would read as the host's. Options in our configuration win over runc's.
 */
import path from "node:path";
import type { Mount } from "../kernel/mountinfo.ts";

/**
 * Options for the restore: each hierarchy is the container's cgroup in it.
 * @param mounts of the host
 * @param destination where the container sees its cgroups
 * @param cgroup the container's cgroup, from the root of every hierarchy
 */
export function cgroupMountOptions(
  mounts: readonly Pick<Mount, "device" | "path" | "type">[],
  destination: string,
  cgroup: string,
): string[] {
  const hierarchies = mounts.filter(({ type }) => type === "cgroup");
  const firsts = hierarchies.filter(({ device }, index) => hierarchies.findIndex((other) => other.device === device) === index);
  return firsts.map(({ path: at }) => `external mnt[${path.join(destination, path.basename(at))}]:${path.join(at, cgroup)}`);
}

/**
 * The cgroup that a container's configuration names, from the root of every hierarchy: a path, or with the systemd driver
 * `SLICE:PREFIX:NAME` (OCI runtime specification, "Cgroups Path"; runc, "systemd cgroup driver").
 */
export function cgroupOf(cgroupsPath: string): string {
  const [slice, prefix, name] = cgroupsPath.split(":");
  if (slice === undefined || prefix === undefined || name === undefined) return cgroupsPath;
  const parts = slice.replace(/\.slice$/, "").split("-");
  const slices = parts.map((_, index) => `${parts.slice(0, index + 1).join("-")}.slice`);
  return path.join("/", ...slices, prefix === "" ? `${name}.scope` : `${prefix}-${name}.scope`);
}
