/**
 * How restored tasks come into their container's cgroups on this host, and see them. Pure.
 */
import path from "node:path";
import type { Mount } from "../kernel/mountinfo.ts";

/**
 * Options for the restore on a host with cgroup v2: the tasks belong into the container's cgroup here. On a host with v1 runc tells CRIU
 * so (libcontainer/criu_linux.go, criuApplyCgroups); on one with v2 it does not, and CRIU would make the cgroup of the source, named
 * after the container's id there, and put them into that.
 * @param cgroup from the root of the hierarchy
 */
export function cgroupRootOptions(version: "v1" | "v2", cgroup: string): string[] {
  return version === "v1" ? [] : [`cgroup-root :${cgroup}`]; // the name of v2's controller is empty
}

/**
 * Options for the restore of a container without a cgroup namespace on a host with v1: what it sees below /sys/fs/cgroup are bind mounts of
 * its own cgroups, and runc tells CRIU to take those that runc itself is in (libcontainer/rootfs_linux.go, getCgroupMounts): limits
 * would read as the host's. Options in our configuration win over runc's.
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
