/**
 * Branded identifiers: strings that have been checked once, at the edge, and cannot be mixed up afterwards.
 */
import { DmigrateError } from "./errors.ts";

declare const brand: unique symbol;
type Branded<Name extends string> = string & { readonly [brand]: Name };

/** A container's full id: 64 lower-case hexadecimal digits. */
export type ContainerId = Branded<"ContainerId">;
/** A host's name in the cluster: a DNS label, like `a` or `web-3`. */
export type HostName = Branded<"HostName">;
/** A migration's id: `m` and 12 lower-case letters or digits; safe in a path. */
export type MigrationId = Branded<"MigrationId">;

const CONTAINER_ID = /^[0-9a-f]{64}$/;
const HOST_NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const MIGRATION_ID = /^m[0-9a-z]{12}$/;

/** Checks a container id; throws PROTOCOL if it is none. */
export function containerId(text: string): ContainerId {
  if (!CONTAINER_ID.test(text)) throw malformed("container id", text, "64 hexadecimal digits");
  return text as ContainerId; // just checked
}

/** Checks a host name; throws USAGE if it is none. */
export function hostName(text: string): HostName {
  if (!HOST_NAME.test(text)) {
    throw new DmigrateError("USAGE", `${quote(text)} is no host name; use lower-case letters, digits and inner hyphens, at most 63`);
  }
  return text as HostName; // just checked
}

/** Checks a migration id; throws MIGRATION_NOT_FOUND if it is none, for only an unknown id can look otherwise. */
export function migrationId(text: string): MigrationId {
  if (!MIGRATION_ID.test(text)) {
    throw new DmigrateError("MIGRATION_NOT_FOUND", `${quote(text)} is no migration id; \`dmigrate list\` shows them`);
  }
  return text as MigrationId; // just checked
}

/** Makes a migration id of 64 random bits. */
export function newMigrationId(randomBits: bigint): MigrationId {
  return migrationId(`m${randomBits.toString(36).padStart(12, "0").slice(-12)}`);
}

function malformed(what: string, text: string, form: string): DmigrateError {
  return new DmigrateError("PROTOCOL", `Malformed ${what} ${quote(text)}: expected ${form}; update both agents to the same release`);
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, 80));
}
