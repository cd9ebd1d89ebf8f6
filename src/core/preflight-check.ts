/**
 * What a preflight check is made of: the facts it looks at, the problems it yields, and the words it tells them in.
 */
import type { HostName } from "./ids.ts";
import type { RequestableMode } from "./migration.ts";
import type { Arrival, ContainerFacts, HostFacts, ProcessFacts } from "./preflight-facts.ts";

/** Everything a check may look at. */
export interface Subject {
  readonly source: HostFacts;
  readonly target: HostFacts;
  readonly container: ContainerFacts;
  /** In which it is to move. */
  readonly mode: RequestableMode;
}

/** One thing that a check found. */
export interface Problem {
  /** A blocker forbids the migration; a warning does not. */
  readonly severity: "blocker" | "warning";
  /** The host it concerns; absent if it concerns the container. */
  readonly host?: HostName;
  /** Names the process and descriptor, mount, network, ... */
  readonly message: string;
  /** What the user can do about it. */
  readonly remedy: string;
}

/** A check: yields what is wrong. */
export interface Check<Facts extends Subject = Subject> {
  /** Said if nothing is wrong; nothing if it could not be looked at, for a reason that another check tells. */
  readonly passed: (facts: Facts) => string | undefined;
  readonly find: (facts: Facts) => Iterable<Problem>;
}

/** What a check of the container's place on the target looks at. */
export interface ArrivalSubject extends Subject {
  readonly arrival: Arrival;
}

export function blocker(message: string, remedy: string, host?: HostName): Problem {
  return problem("blocker", message, remedy, host);
}

export function warning(message: string, remedy: string, host?: HostName): Problem {
  return problem("warning", message, remedy, host);
}

function problem(severity: Problem["severity"], message: string, remedy: string, host: HostName | undefined): Problem {
  return host === undefined ? { severity, message, remedy } : { severity, host, message, remedy };
}

/** Names a process the way its owner knows it. */
export function nameOf(process: ProcessFacts): string {
  return `${process.name} (pid ${process.innerPid} in the container)`;
}

/** Names file descriptors: `fd 7`, `fds 7, 9`. */
export function fds(descriptors: readonly { readonly fd: number }[]): string {
  return `${descriptors.length === 1 ? "fd" : "fds"} ${descriptors.map(({ fd }) => fd).join(", ")}`;
}

/** A number of bytes for people. */
export function size(bytes: number): string {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  const unit = bytes < 1024 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** unit;
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit] ?? ""}`;
}

/** A thing counted: `1 connection`, `2 connections`. */
export function count(number: number, thing: string): string {
  return `${number} ${thing}${number === 1 ? "" : "s"}`;
}
