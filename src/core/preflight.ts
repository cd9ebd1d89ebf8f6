/**
 * The preflight: from facts of two hosts and of a running container to what forbids or burdens its migration, and to the
 * options that CRIU needs for it.
 *
 * Features are examined, never versions. Nothing here gathers a fact (src/preflight does) and nothing is changed.
 */
import type { RequestableMode } from "./migration.ts";
import { arrivalChecks, diskBytes } from "./preflight-arrival.ts";
import type { Check, Problem, Subject } from "./preflight-check.ts";
import { containerChecks, deletedFiles, socketsOf } from "./preflight-container.ts";
import type { ContainerFacts, HostFacts } from "./preflight-facts.ts";
import { hostChecks } from "./preflight-hosts.ts";

/** Every check, by what it is called in a finding. */
export type CheckId = keyof typeof hostChecks | keyof typeof arrivalChecks | keyof typeof containerChecks;

/** All of them, in the order in which they are told. */
export const CHECK_IDS: readonly CheckId[] = [...idsOf(hostChecks), ...idsOf(containerChecks), ...idsOf(arrivalChecks)];

/** What a check found. */
export interface Finding extends Problem {
  readonly check: CheckId;
}

/** What a preflight found out. The container may be migrated if no finding is a blocker. */
export interface Examination {
  readonly findings: readonly Finding[];
  /** What was examined and found in order, a line each. */
  readonly passed: readonly string[];
  /** Lines of a CRIU configuration file (criu(8), CONFIGURATION FILES) without which the container can't be dumped and restored. */
  readonly criuOptions: readonly string[];
  /** What has to cross while the container runs, about: missing image layers, writable layer, volumes; 0 if the target can't tell. */
  readonly copyBytes: number;
  /** Whether the target keeps memory that is copied ahead. */
  readonly keepsAhead: boolean;
}

/**
 * Examines whether `container` can move from `source` to `target`. The target's facts must have been gathered with the
 * container's needs; where its Docker Engine does not answer, what concerns the container's place there stays unexamined.
 */
export function examine(source: HostFacts, target: HostFacts, container: ContainerFacts, mode: RequestableMode = "auto"): Examination {
  const subject: Subject = { source, target, container, mode };
  const findings: Finding[] = [];
  const passed: string[] = [];
  const run = <Facts extends Subject, Id extends CheckId>(checks: Readonly<Record<Id, Check<Facts>>>, facts: Facts): void => {
    for (const id of idsOf(checks)) {
      const foundBefore = findings.length;
      for (const problem of checks[id].find(facts)) findings.push({ check: id, ...problem });
      const said = findings.length === foundBefore ? checks[id].passed(facts) : undefined;
      if (said !== undefined) passed.push(said);
    }
  };
  run(hostChecks, subject);
  run(containerChecks, subject);
  const arrival = target.docker.reachable ? target.docker.arrival : undefined;
  if (arrival !== undefined) run(arrivalChecks, { ...subject, arrival });
  const copyBytes = arrival === undefined ? 0 : diskBytes({ ...subject, arrival });
  return {
    findings,
    passed,
    criuOptions: criuOptions(container),
    copyBytes,
    keepsAhead: target.pageHandler === "own",
  };
}

/** CRIU refuses to dump a deleted file larger than this (criu/include/cr_options.h, DEFAULT_GHOST_LIMIT). */
const GHOST_LIMIT_BYTES = 1024 * 1024;

function criuOptions({ processes, watchedPaths }: ContainerFacts): string[] {
  const deleted = processes.flatMap((process) => deletedFiles(process)).map(({ file }) => file);
  const sockets = processes.flatMap((process) => socketsOf(process)).map(({ socket }) => socket);
  const largest = Math.max(0, ...deleted.map((file) => file.diskBytes));
  const options: string[] = [];
  if (deleted.some((file) => file.linkCount > 0)) options.push("link-remap");
  // A deleted file may grow until the dump: twice its size, and at least twice CRIU's own limit.
  if (deleted.length > 0) options.push(`ghost-limit ${2 * Math.max(largest, GHOST_LIMIT_BYTES)}`);
  // A connection that nobody accepted yet would fail the dump; its client will try again.
  if (sockets.some((socket) => socket.type === "tcp" && socket.state === "listen")) options.push("skip-in-flight");
  if (processes.some((process) => process.descriptors.some((descriptor) => descriptor.kind === "lock"))) options.push("file-locks");
  // Files of an overlay can't be opened by what inotify tells of them: CRIU has to look where they lie.
  for (const path of topmost([...watchedPaths.values()])) options.push(`irmap-scan-path ${path}`);
  return options;
}

/** CRIU scans each path with all that lies below it, but looks at the root itself without being told. */
function topmost(paths: readonly string[]): string[] {
  const others = paths.filter((path) => path !== "/");
  return others.filter((path) => !others.some((above) => path.startsWith(`${above}/`))).toSorted();
}

function idsOf<Id extends string>(checks: Readonly<Record<Id, unknown>>): Id[] {
  return Object.keys(checks) as Id[]; // the tables are literals: they have no other keys
}
