/**
 * A lab: several hosts and a client host on one Ethernet segment of this machine, with real engines on real namespaces.
 */
import { existsSync } from "node:fs";
import { mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import * as z from "zod";
import { DmigrateError } from "../src/core/errors.ts";
import { cgroupsWithPrefix } from "./cgroups.ts";
import { Host, removeHost } from "./host.ts";
import { DATA_DIR, NAME_PREFIX, RUN_DIR, cgroupName, labHostName, labName, segmentName } from "./paths.ts";
import { Segment, parseRate } from "./segment.ts";
import { ensureRoot } from "./setup.ts";
import { claimSite, isSiteClaimed } from "./site.ts";

/** What a lab is made of. */
export interface LabSpec {
  readonly name: string;
  /** Hosts with a Docker Engine, in order; their addresses count up from 10.77.0.1. */
  readonly hosts: readonly string[];
  /** The hosts among them whose Docker Engine remaps user ids (`userns-remap`). */
  readonly usernsRemap?: readonly string[];
  /** The hosts among them that have cgroup v2 alone. */
  readonly cgroup2?: readonly string[];
  /** Rate of every host's link, like `1gbit`; unlimited if left out. */
  readonly rate?: string;
}

/** Hosts have the addresses below `CONTAINER_RANGE`, the last of them the client host. */
const HOSTS_MAX = 126;

/** Name of the host without Docker that clients run on. */
export const CLIENT = "client";
/** The segment's network; containers that get an address on it take it from `CONTAINER_RANGE`. */
export const SUBNET = "10.77.0.0/24";
export const CONTAINER_RANGE = "10.77.0.128/25";
/** Docker network of the segment, made on every host: containers on it are machines of the segment. */
export const LAN = "lan";

const PIPE_MAX_SIZE = 268_435_456;

const labState = z.object({
  name: z.string(),
  hosts: z.array(
    z.object({
      name: z.string(),
      address: z.string(),
      docker: z.boolean(),
      usernsRemap: z.boolean(),
      cgroup2: z.boolean(),
      initPid: z.int(),
      initStartTicks: z.string(),
      cgroups: z.array(z.string()),
    }),
  ),
});

/** A lab that is up. Disposing it takes it down. */
export class Lab implements AsyncDisposable {
  readonly name: string;
  readonly segment: Segment;
  private readonly byName: Map<string, Host>;

  private constructor(name: string, hosts: readonly Host[]) {
    this.name = name;
    this.segment = new Segment(segmentName(name));
    this.byName = new Map(hosts.map((host) => [host.name, host]));
  }

  get hosts(): Host[] {
    return [...this.byName.values()];
  }

  /** A host by name; throws LAB if the lab has none of that name. */
  host(name: string): Host {
    const host = this.byName.get(name);
    if (host === undefined)
      throw new DmigrateError("LAB", `Lab ${this.name} has no host ${name}; it has ${[...this.byName.keys()].join(", ")}`);
    return host;
  }

  /**
   * Builds a lab; whatever an earlier one of the same name left is removed first. On failure nothing is left.
   * @param furnish what belongs to it besides
   * @throws USAGE if the lab can't be, before anything is done; LAB
   */
  static async up(
    spec: LabSpec,
    say: (line: string) => void = () => {},
    furnish: (lab: Lab) => Promise<void> = () => Promise.resolve(),
  ): Promise<Lab> {
    checkSpec(spec);
    assertRoot();
    const { name } = spec;
    await using _site = await claimSite(name);
    await ensureRoot();
    await removeLab(name);
    try {
      const lab = await Lab.build(name, spec, say);
      await furnish(lab);
      return lab;
    } catch (error) {
      await removeLab(name);
      throw error;
    }
  }

  private static async build(name: string, spec: LabSpec, say: (line: string) => void): Promise<Lab> {
    await raisePipeLimit();
    const segment = new Segment(segmentName(name));
    await segment.create();
    const names = [...spec.hosts, CLIENT];
    const rate = spec.rate === undefined ? undefined : parseRate(spec.rate);
    const hosts: Host[] = [];
    for (const [index, host] of names.entries()) {
      const booted = await Host.boot(name, {
        name: host,
        address: `10.77.0.${index + 1}/24`,
        docker: host !== CLIENT,
        usernsRemap: spec.usernsRemap?.includes(host) ?? false,
        cgroup2: spec.cgroup2?.includes(host) ?? false,
      });
      hosts.push(booted);
      await segment.connect(host, booted.record.initPid, booted.record.address, rate);
      say(`Host ${host} is up at ${booted.address}`);
    }
    await nameEachOther(hosts);
    await Promise.all(hosts.filter((host) => host.record.docker).map((host) => startEngine(host)));
    say(`Docker answers on ${spec.hosts.join(", ")}`);
    await writeState(name, hosts);
    return new Lab(name, hosts);
  }

  /** Finds a lab that is up; throws LAB if there is none of that name. */
  static async attach(name: string): Promise<Lab> {
    const file = stateFile(labName(name));
    const remedy = `\`dmigrate lab up --name ${name}\` builds it anew, \`dmigrate lab down --name ${name}\` removes what is left`;
    if (!existsSync(file)) {
      if (await isSiteClaimed(name)) throw new DmigrateError("LAB", `Lab ${name} is being built just now; wait for that`);
      if ((await labNames()).includes(name)) throw new DmigrateError("LAB", `Lab ${name} was not built to its end; ${remedy}`);
      throw new DmigrateError("LAB", `There is no lab ${name}; \`dmigrate lab up\` makes one, \`dmigrate lab status\` lists them`);
    }
    const state = labState.parse(JSON.parse(await readFile(file, "utf8")));
    const hosts = state.hosts.map((record) => new Host(state.name, record));
    const dead = hosts.find((host) => !host.alive);
    if (dead !== undefined) throw new DmigrateError("LAB", `Host ${dead.name} of lab ${name} died; ${remedy}`);
    return new Lab(state.name, hosts);
  }

  /** Takes the lab down. */
  async down(): Promise<void> {
    await removeLab(this.name);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.down();
  }
}

/** Throws LAB for anybody else. */
export function assertRoot(): void {
  if (process.geteuid?.() !== 0) throw new DmigrateError("LAB", "A lab needs root, for namespaces and mounts; run it with sudo");
}

/** Throws USAGE, saying what is wrong, if a lab can't be. */
export function checkSpec({ name, hosts, usernsRemap = [], cgroup2 = [], rate }: LabSpec): void {
  labName(name);
  for (const host of hosts) labHostName(host);
  if (rate !== undefined) parseRate(rate);
  const problem = problemOf(hosts, usernsRemap, cgroup2);
  if (problem !== undefined) throw new DmigrateError("USAGE", problem);
}

function problemOf(hosts: readonly string[], usernsRemap: readonly string[], cgroup2: readonly string[]): string | undefined {
  if (hosts.length === 0) return "A lab without a host is none; name at least one";
  if (hosts.length > HOSTS_MAX) return `A lab has addresses for ${HOSTS_MAX} hosts, not for ${hosts.length}; name fewer`;
  if (hosts.includes(CLIENT)) return `Every lab has a host ${CLIENT} for clients by itself; name the others only`;
  const twice = hosts.find((host, index) => hosts.indexOf(host) !== index);
  if (twice !== undefined) return `Host ${twice} is named twice; give each a name of its own`;
  for (const [named, what] of [
    [usernsRemap, "shall remap user ids"],
    [cgroup2, "shall have cgroup v2 alone"],
  ] as const) {
    const stranger = named.find((host) => !hosts.includes(host));
    if (stranger !== undefined) return `Host ${stranger}, which ${what}, is not of this lab; it has ${hosts.join(", ")}`;
  }
  return undefined;
}

/** Names of all labs on this machine, also of those of which a crash left but a part. */
export async function labNames(): Promise<string[]> {
  const fromFolders = await Promise.all([RUN_DIR, DATA_DIR].map(namesIn));
  const prefixed = [...(await cgroupsWithPrefix(NAME_PREFIX)), ...(await namesIn(NETNS_DIR))].filter((name) =>
    name.startsWith(NAME_PREFIX),
  );
  const fromPrefixed = prefixed.map((name) => name.slice(NAME_PREFIX.length).split("-")[0] ?? "");
  return [...new Set([...fromFolders.flat(), ...fromPrefixed])].toSorted();
}

/** Removes a lab by its name alone, in whatever state it is. */
export async function removeLab(name: string): Promise<void> {
  const prefix = cgroupName(labName(name), "");
  const fromCgroups = (await cgroupsWithPrefix(prefix)).map((cgroup) => cgroup.slice(prefix.length));
  const fromFolders = await Promise.all([RUN_DIR, DATA_DIR].map((folder) => namesIn(path.join(folder, name))));
  const hosts = new Set([...fromCgroups, ...fromFolders.flat()].filter((host) => host !== STATE_FILE));
  await Promise.all([...hosts].map((host) => removeHost(name, host)));
  if (existsSync(path.join(NETNS_DIR, segmentName(name)))) await new Segment(segmentName(name)).remove();
  await rm(path.join(RUN_DIR, name), { recursive: true, force: true });
  await rm(path.join(DATA_DIR, name), { recursive: true, force: true });
}

async function namesIn(folder: string): Promise<string[]> {
  return await readdir(folder).catch(() => []);
}

/** Where ip-netns(8) keeps named network namespaces. */
const NETNS_DIR = "/run/netns";
/** Written when a lab is complete: one without it was not built to its end. */
const STATE_FILE = "lab.json";

function stateFile(name: string): string {
  return path.join(RUN_DIR, name, STATE_FILE);
}

async function writeState(name: string, hosts: readonly Host[]): Promise<void> {
  await mkdir(path.dirname(stateFile(name)), { recursive: true });
  await writeFile(stateFile(name), JSON.stringify({ name, hosts: hosts.map((host) => host.record) }));
}

/** Without CAP_SYS_RESOURCE CRIU can't raise its pipes above this limit, which belongs to the whole machine. */
async function raisePipeLimit(): Promise<void> {
  const file = "/proc/sys/fs/pipe-max-size";
  if (Number(await readFile(file, "utf8")) < PIPE_MAX_SIZE) await writeFile(file, String(PIPE_MAX_SIZE));
}

async function nameEachOther(hosts: readonly Host[]): Promise<void> {
  const lines = ["127.0.0.1 localhost", ...hosts.map((host) => `${host.address} ${host.name}`)];
  for (const host of hosts) await writeFile(`${host.root}/etc/hosts`, lines.join("\n").concat("\n"));
}

async function startEngine(host: Host): Promise<void> {
  await host.startDocker();
  await host.run(
    "docker",
    "network",
    "create",
    "--driver",
    "macvlan",
    "--subnet",
    SUBNET,
    "--ip-range",
    CONTAINER_RANGE,
    "--opt",
    "parent=eth0",
    LAN,
  );
}
