/**
 * Where a lab keeps what: everything of one lab lies under names that contain the lab's own name, so that two labs live
 * side by side and whatever a crashed one left can be found.
 */
import { DmigrateError } from "../src/core/errors.ts";
import { fileURLToPath } from "node:url";
import path from "node:path";

/** Root of this checkout, bound into every host at `CHECKOUT_IN_HOST`. */
export const CHECKOUT: string = path.resolve(fileURLToPath(new URL("..", import.meta.url)));
/** Where a host sees the checkout. */
export const CHECKOUT_IN_HOST = "/opt/dmigrate";
/** Root file systems and images that are built once and shared by all labs. */
export const CACHE_DIR = "/var/cache/dmigrate";
/** One folder per lab: its state file, its hosts' mount points. Gone after a reboot, as the labs are. */
export const RUN_DIR = "/run/dmigrate-lab";
/** One folder per lab: its hosts' disks. */
export const DATA_DIR = "/var/lib/dmigrate-lab";

const LAB_NAME = /^[a-z][a-z0-9]{0,7}$/;

/** Checks a lab's name: short, for it becomes part of interface and cgroup names. Throws USAGE. */
export function labName(text: string): string {
  if (LAB_NAME.test(text)) return text;
  throw new DmigrateError(
    "USAGE",
    `${JSON.stringify(text)} is no name for a lab; use a lower-case letter and up to 7 lower-case letters or digits`,
  );
}

const HOST_NAME = /^[a-z]([a-z0-9-]{0,11}[a-z0-9])?$/;

/** Checks a host's name: with a prefix it becomes the name of an interface, which has at most 15 characters. Throws USAGE. */
export function labHostName(text: string): string {
  if (HOST_NAME.test(text)) return text;
  throw new DmigrateError(
    "USAGE",
    `${JSON.stringify(text)} is no name for a lab's host; use a lower-case letter and up to 12 lower-case letters, digits or inner hyphens`,
  );
}

/** What all names of segments and cgroups begin with. */
export const NAME_PREFIX = "dmlab-";
/** The named network namespace that holds a lab's bridge. */
export const segmentName = (lab: string): string => `${NAME_PREFIX}${lab}`;
/** The cgroup of a host, relative to each hierarchy's root. */
export const cgroupName = (lab: string, host: string): string => `${NAME_PREFIX}${lab}-${host}`;
