/**
 * All processes of a container: those in the cgroup of its init, which are what a freeze stops and CRIU finds.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { setImmediate as letOthersRun } from "node:timers/promises";
import type { Origin, ProcessFacts } from "../core/preflight-facts.ts";
import { freezerGroups } from "../kernel/freezer-groups.ts";
import { parseMountinfo } from "../kernel/mountinfo.ts";
import { isWithin } from "./proc.ts";
import { isGone, readNamespaces, readProcess, type ProcessReading, type Surroundings } from "./process.ts";
import { SocketTables } from "./sockets.ts";

/**
 * Reads every process in the cgroup of `initPid` or below it, the init first.
 *
 * @param procRoot /proc of the pid namespace that the pids belong to
 * @param probes pids of health checks
 * @throws ENOENT or ESRCH if the init has ended
 */
export async function readProcesses(initPid: number, procRoot: string, probes: ReadonlySet<number>): Promise<ProcessFacts[]> {
  const pids = processesOf(initPid, procRoot);
  const surroundings = surroundingsOf(initPid, pids, procRoot);
  const readings: ProcessReading[] = [];
  for (const pid of pids) {
    const reading = unlessEnded(() => readProcess(`${procRoot}/${pid}`, surroundings));
    if (reading !== undefined) readings.push(reading);
    await letOthersRun();
  }
  const origins = new Origins(readings, initPid, probes);
  return readings.map((reading) => Object.assign(reading, { origin: origins.of(reading.pid) }));
}

function surroundingsOf(initPid: number, pids: readonly number[], procRoot: string): Surroundings {
  const namespacesByPid = new Map(
    pids.flatMap((pid) => {
      const namespaces = unlessEnded(() => readNamespaces(`${procRoot}/${pid}`));
      return namespaces === undefined ? [] : [[pid, namespaces] as const];
    }),
  );
  // A process sees only the mounts below its root, which chroot(2) changes.
  const views = new Map(
    [...namespacesByPid].flatMap(([pid, { mnt }]) => {
      const root = unlessEnded(() => readlinkSync(`${procRoot}/${pid}/root`));
      return root === undefined ? [] : [[`${mnt} ${root}`, pid]];
    }),
  );
  const mounts = [...views.values()].flatMap(
    (pid) => unlessEnded(() => parseMountinfo(readFileSync(`${procRoot}/${pid}/mountinfo`, "utf8"))) ?? [],
  );
  return {
    namespaces: readNamespaces(`${procRoot}/${initPid}`),
    inhabited: new Set([...namespacesByPid.values()].flatMap((namespaces) => Object.values(namespaces))),
    mounts,
    pids: new Set(pids),
    sockets: new SocketTables(),
  };
}

/** Reads files of /proc at once: each takes microseconds, a promise for it many times as long. */
function processesOf(initPid: number, procRoot: string): number[] {
  const hostMounts = parseMountinfo(readFileSync("/proc/self/mountinfo", "utf8"));
  const cgroupOf = (pid: number): string | undefined =>
    freezerGroups(readFileSync(`${procRoot}/${pid}/cgroup`, "utf8"), hostMounts)[0]?.group;
  const cgroup = cgroupOf(initPid);
  if (cgroup === undefined) return [initPid];
  const others = readdirSync(procRoot).filter((name) => /^\d+$/.test(name) && name !== String(initPid));
  const inside = others.map(Number).filter((pid) =>
    isWithin(
      unlessEnded(() => cgroupOf(pid)),
      cgroup,
    ),
  );
  return [initPid, ...inside.toSorted((a, b) => a - b)];
}

/** Who descends from the init; whoever does not came in by `docker exec`, or as a health check, which the engine starts alike. */
class Origins {
  readonly #parents: ReadonlyMap<number, number>;
  readonly #initPid: number;
  readonly #probes: ReadonlySet<number>;

  constructor(readings: readonly ProcessReading[], initPid: number, probes: ReadonlySet<number>) {
    this.#parents = new Map(readings.map(({ pid, parentPid }) => [pid, parentPid]));
    this.#initPid = initPid;
    this.#probes = probes;
  }

  of(pid: number): Origin {
    if (pid === this.#initPid) return "container";
    const parent = this.#parents.get(pid);
    if (parent !== undefined && this.#parents.has(parent)) return this.of(parent);
    return this.#probes.has(pid) ? "health-check" : "exec";
  }
}

/** Undefined if the process that is read has ended meanwhile. */
function unlessEnded<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}
