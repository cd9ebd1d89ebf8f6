/**
 * One host of a lab: namespaces, a root of its own over the shared one, its own cgroups, and, if wanted, its own dockerd.
 */
import { execFile, spawn, type ChildProcess, type SpawnOptions } from "node:child_process";
import { createInterface } from "node:readline";
import { closeSync, existsSync, openSync, readFileSync } from "node:fs";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import path from "node:path";
import { DmigrateError } from "../src/core/errors.ts";
import { hierarchiesOf, isUnifiedOnly, makeCgroups, processesIn, removeCgroups, thawAll, type Hierarchy } from "./cgroups.ts";
import { CACHE_DIR, CHECKOUT, CHECKOUT_IN_HOST, DATA_DIR, RUN_DIR, cgroupName } from "./paths.ts";
import { ROOT_DIR } from "./setup.ts";
import { run } from "./run.ts";

/** What a lab remembers of a host, enough to find it again from another process. */
export interface HostRecord {
  readonly name: string;
  readonly address: string;
  readonly docker: boolean;
  readonly usernsRemap: boolean;
  /** Has cgroup v2 alone, like stock machines of today, whatever this machine has. */
  readonly cgroup2: boolean;
  readonly initPid: number;
  /** Start time of init in clock ticks since boot: tells the process from a later one with the same id. */
  readonly initStartTicks: string;
  readonly cgroups: readonly string[];
}

/** How a command in a host ended. */
export interface ExecResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const OCTETS = /^\d+\.\d+\.\d+\.\d+$/;

/** A running lab host. */
export class Host {
  readonly lab: string;
  readonly record: HostRecord;

  constructor(lab: string, record: HostRecord) {
    this.lab = lab;
    this.record = record;
  }

  get name(): string {
    return this.record.name;
  }

  /** The host's address on the segment, without prefix length. */
  get address(): string {
    return this.record.address.split("/")[0] ?? this.record.address;
  }

  /** The host's root as seen from outside. */
  get root(): string {
    return `/proc/${this.record.initPid}/root`;
  }

  /** The Docker Engine's socket as seen from outside. */
  get dockerSocket(): string {
    return `${this.root}/run/docker.sock`;
  }

  /** Boots a host: cgroups, overlay, namespaces, init. */
  static async boot(lab: string, spec: Omit<HostRecord, "initPid" | "initStartTicks" | "cgroups">): Promise<Host> {
    if (!OCTETS.test(spec.address.split("/")[0] ?? "")) throw new DmigrateError("LAB", `${spec.address} is no IPv4 address`);
    const hierarchies = hierarchiesOf(spec.cgroup2);
    const cgroups = await makeCgroups(cgroupName(lab, spec.name), hierarchies);
    const root = path.join(RUN_DIR, lab, spec.name);
    await mountRoot(root, path.join(DATA_DIR, lab, spec.name));
    const initPid = await startInit(root, spec.name, cgroups, hierarchies);
    return new Host(lab, { ...spec, initPid, initStartTicks: startTicks(initPid) ?? "", cgroups });
  }

  /** argv that enters the host and runs `argv` there. */
  enter(argv: readonly string[]): string[] {
    return ["sh", path.join(CHECKOUT, "lab/enter.sh"), String(this.record.initPid), ...this.record.cgroups, "--", ...argv];
  }

  /** Starts a program in the host. */
  spawn(argv: readonly string[], options: SpawnOptions = {}): ChildProcess {
    const [program = "", ...args] = this.enter(argv);
    return spawn(program, args, options);
  }

  /** Runs a program in the host to its end, whatever its exit code. */
  exec(...argv: readonly string[]): Promise<ExecResult> {
    const [program = "", ...args] = this.enter(argv);
    return new Promise((resolve) => {
      execFile(program, args, { maxBuffer: 64 << 20 }, (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === "number" ? error.code : 255;
        resolve({ code, stdout, stderr });
      });
    });
  }

  /** Runs a program in the host and returns its standard output; throws LAB if it fails. */
  async run(...argv: readonly string[]): Promise<string> {
    const { code, stdout, stderr } = await this.exec(...argv);
    if (code !== 0) {
      throw new DmigrateError("LAB", `\`${argv.join(" ")}\` on host ${this.name} ended with ${code}: ${stderr.trim() || stdout.trim()}`);
    }
    return stdout;
  }

  /** Starts a daemon that outlives this process; its output goes to /var/log/NAME.log in the host. */
  startDaemon(name: string, argv: readonly string[]): number {
    const log = openSync(`${this.root}/var/log/${name}.log`, "a");
    const child = this.spawn(argv, { detached: true, stdio: ["ignore", log, log] });
    closeSync(log);
    child.unref();
    return child.pid ?? 0;
  }

  /** Starts dockerd and waits until it answers. */
  async startDocker(): Promise<void> {
    const config = {
      runtimes: { dmigrate: { path: `${CHECKOUT_IN_HOST}/src/shim/dmigrate-runtime` } },
      "storage-driver": "overlay2",
      "userland-proxy": false,
      ...(this.record.usernsRemap ? { "userns-remap": "default" } : {}),
    };
    await mkdir(`${this.root}/etc/docker`, { recursive: true });
    await writeFile(`${this.root}/etc/docker/daemon.json`, JSON.stringify(config, null, 2));
    this.startDaemon("dockerd", ["dockerd"]);
    await until(`dockerd on host ${this.name}`, () => existsSync(this.dockerSocket));
    await this.run("docker", "version", "--format", "{{.Server.Version}}");
  }

  /** True while the host's init lives. */
  get alive(): boolean {
    return startTicks(this.record.initPid) === this.record.initStartTicks;
  }
}

/** The end of a host, whatever state it is in: its processes by their cgroup, its mount, its cgroups and its disk. */
export async function removeHost(lab: string, host: string): Promise<void> {
  const cgroup = cgroupName(lab, host);
  await until(`the processes of host ${host} to end`, async () => {
    await thawAll(cgroup); // what is frozen can't be killed, and an agent may freeze until it is
    const pids = await processesIn(cgroup);
    for (const pid of pids) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // It ended between being listed and being killed.
      }
    }
    return pids.length === 0;
  });
  const root = path.join(RUN_DIR, lab, host);
  while (isMountPoint(root)) await run("umount", "-l", root);
  await removeCgroups(cgroup);
  await rm(root, { recursive: true, force: true });
  await removeData(path.join(DATA_DIR, lab, host));
}

/** Also of files that a container has made immutable. */
async function removeData(folder: string): Promise<void> {
  const remove = (): Promise<void> => rm(folder, { recursive: true, force: true });
  await remove().catch(async () => {
    await run("chattr", "-R", "-f", "-ia", folder).catch(() => {}); // it minds files of kinds that have no attributes
    await remove();
  });
}

function isMountPoint(folder: string): boolean {
  return readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .some((line) => line.split(" ")[1] === folder);
}

/**
 * Overlays the shared root; Docker's folder can't lie on an overlay and gets a real one. All labs share what Node compiled, which is a
 * third of the cost of starting an agent.
 */
async function mountRoot(root: string, data: string): Promise<void> {
  const [upper, work, docker] = ["upper", "work", "docker"].map((folder) => path.join(data, folder)) as [string, string, string];
  for (const folder of [root, upper, work, docker]) await mkdir(folder, { recursive: true });
  await run("mount", "-t", "overlay", "overlay", "-o", `lowerdir=${ROOT_DIR},upperdir=${upper},workdir=${work}`, root);
  await mkdir(path.join(root, "var/lib/docker"), { recursive: true });
  await run("mount", "--bind", docker, path.join(root, "var/lib/docker"));
  const [compiled, compiledInHost] = [path.join(CACHE_DIR, "compiled"), path.join(root, "var/cache/compiled")];
  for (const folder of [compiled, compiledInHost]) await mkdir(folder, { recursive: true });
  await run("mount", "--bind", compiled, compiledInHost);
}

/** Starts the host's init in new namespaces; returns its process id once the host is up. */
async function startInit(root: string, name: string, cgroups: readonly string[], hierarchies: readonly Hierarchy[]): Promise<number> {
  const join = 'for folder; do [ "$folder" = -- ] && break; echo $$ > "$folder/cgroup.procs"; shift; done; shift; exec "$@"';
  const unshare = ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--fork", "--"];
  const init = ["sh", path.join(CHECKOUT, "lab/host-init.sh"), root, CHECKOUT, name];
  const child = spawn("sh", ["-c", join, "sh", ...cgroups, "--", ...unshare, ...init], { detached: true, stdio: ["pipe", "pipe", "pipe"] });
  child.stdin.end(hierarchyLines(hierarchies).join("\n").concat("\n"));
  let problem = "";
  child.stderr.on("data", (chunk: Buffer) => (problem += chunk.toString()));
  const ready = await new Promise<boolean>((resolve) => {
    createInterface({ input: child.stdout }).once("line", () => resolve(true));
    child.once("exit", () => resolve(false));
  });
  if (!ready) throw new DmigrateError("LAB", `Host ${name} did not boot: ${problem.trim()}`);
  child.unref();
  for (const stream of [child.stdout, child.stderr]) stream.destroy();
  const children = await readFile(`/proc/${child.pid}/task/${child.pid}/children`, "utf8");
  return Number(children.trim());
}

/** What host-init.sh reads: the hierarchies to mount. */
function hierarchyLines(all: readonly Hierarchy[]): string[] {
  if (isUnifiedOnly(all)) return ["unified-only"];
  return all.map(({ mountPoint, options }) => `${path.basename(mountPoint)} ${options ?? "v2"}`);
}

/** Start time of a process (field 22 of /proc/PID/stat, proc_pid_stat(5)), or undefined if there is none or it has ended. */
function startTicks(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const [state = "", ...others] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return "ZX".includes(state) ? undefined : others[18];
  } catch {
    return undefined;
  }
}

/** A machine may be busy with others: only what never holds takes as long. */
const WAIT_LIMIT_MS = 180_000;

/** Waits until something holds; throws LAB when it does not. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + WAIT_LIMIT_MS;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new DmigrateError("LAB", `Waited ${WAIT_LIMIT_MS / 1000} s for ${what} in vain`);
    await sleep(20);
  }
}
