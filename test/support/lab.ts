/**
 * What tests on a lab begin with: a cluster of hosts, containers on it, migrations whose phases can be acted on, and the search for what
 * a migration may have left behind.
 */
import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import * as z from "zod";
import { agentOf, askAgent, DMIGRATE, startCluster } from "../../lab/cluster.ts";
import type { Host } from "../../lab/host.ts";
import { redisImage } from "../../lab/images/catalogue.ts";
import { buildImage, type ImageSpec } from "../../lab/images/image.ts";
import { loadImage } from "../../lab/images/load.ts";
import { CLIENT, LAN, Lab, type LabSpec } from "../../lab/lab.ts";
import { CHECKOUT_IN_HOST } from "../../lab/paths.ts";
import { ROOT_DIR } from "../../lab/setup.ts";
import { ClientProcess } from "../../lab/workloads/client-control.ts";
import type { MigrationSummary } from "../../src/agent/client.ts";
import type { MigrateRequest } from "../../src/agent/migrations.ts";
import { DmigrateError, ERROR_CODES, isErrorCode } from "../../src/core/errors.ts";
import { hostName, type MigrationId } from "../../src/core/ids.ts";
import { MODES, REQUESTABLE_MODES, type Report, type RequestableMode } from "../../src/core/migration.ts";
import { redisClientResult, type RedisClientResult } from "../../lab/workloads/client-result.ts";

/** Builds a lab whose agents form a cluster. */
export function labOf(spec: LabSpec): Promise<Lab> {
  return Lab.up(spec, undefined, startCluster);
}

/** Builds a lab of hosts `a` and `b` whose agents form a cluster. */
export function labOfTwo(name: string): Promise<Lab> {
  return labOf({ name, hosts: ["a", "b"] });
}

/** How an agent is found among processes. */
export const AGENT = "dmigrate.ts agent";

/** Ends the agent of a host without giving it a chance to do anything. */
export async function killAgent(host: Host): Promise<void> {
  await host.run("pkill", "-KILL", "-f", AGENT);
}

/** Loads an image; returns its name. */
export async function provideImage(host: Host, image: (rootDir: string) => ImageSpec): Promise<string> {
  const spec = image(ROOT_DIR);
  await loadImage(host, await buildImage(spec, ROOT_DIR));
  return spec.name;
}

/** Starts a container on the lab's segment. */
export async function runContainer(host: Host, name: string, image: (rootDir: string) => ImageSpec, ...args: string[]): Promise<void> {
  await host.run("docker", "run", "--detach", "--name", name, "--network", LAN, ...args, await provideImage(host, image));
}

const report = z.looseObject({
  id: z.string(),
  outcome: z.enum(["completed", "rolled-back", "failed"]),
  mode: z.enum(REQUESTABLE_MODES),
  downtimeMs: z.number(),
  totalMs: z.number(),
  phases: z.array(z.looseObject({ name: z.string() })),
  bytes: z.record(z.string(), z.number()),
  pages: z.looseObject({ total: z.number(), copiedAhead: z.number(), zero: z.number(), demanded: z.number(), pushed: z.number() }),
  rounds: z.array(z.object({ startMs: z.number(), endMs: z.number(), pageCount: z.int(), writtenCount: z.int() })),
  plans: z.array(
    z.object({
      atMs: z.number(),
      cpuCores: z.number(),
      workers: z.number(),
      chunkPages: z.number(),
      connections: z.number(),
      compression: z.string(),
      why: z.string(),
    }),
  ),
  prediction: z
    .looseObject({ requested: z.string(), mode: z.string().optional(), modes: z.record(z.enum(MODES), z.record(z.string(), z.unknown())) })
    .optional(),
  verification: z.object({ same: z.number(), different: z.number(), released: z.number() }).optional(),
  warnings: z.array(z.string()),
  error: z.looseObject({ code: z.string(), message: z.string() }).optional(),
});
const answer = z.union([report, z.looseObject({ error: z.looseObject({ code: z.string(), message: z.string() }) })]);

/** How `dmigrate migrate` ended. */
export interface MigrateResult {
  readonly code: number;
  readonly outcome: string | undefined;
  readonly errorCode: string | undefined;
  readonly message: string;
  readonly report: z.infer<typeof report> | undefined;
}

/** What to do as a phase begins, by its name. */
export type Acts = Readonly<Record<string, (migration: MigrationId) => Promise<unknown>>>;

/** Migrates with the command a user gives. */
export async function migrateByCommand(source: Host, container: string, target: string, ...options: string[]): Promise<MigrateResult> {
  const { code, stdout } = await source.exec(DMIGRATE, "migrate", container, target, "--json", ...options);
  const parsed = answer.parse(JSON.parse(stdout));
  const ended = report.safeParse(parsed).data;
  return { code, outcome: ended?.outcome, errorCode: parsed.error?.code, message: parsed.error?.message ?? "", report: ended };
}

/** What else can be asked for. */
export type MoreOptions = Partial<Pick<MigrateRequest, "verify" | "bytesPerSecond">>;

/** Migrates as that command does, without the cost of starting one. */
export async function migrate(
  source: Host,
  container: string,
  target: string,
  at: Acts = {},
  mode: RequestableMode = "post-copy",
  options: MoreOptions = {},
): Promise<MigrateResult> {
  using agent = agentOf(source);
  let id: MigrationId | undefined;
  try {
    for await (const event of agent.migrate({ container, target: hostName(target), mode, keepSource: false, verify: false, ...options })) {
      if (event.kind === "began") id = event.id;
      if (event.kind === "phase-began" && id !== undefined) await at[event.phase]?.(id);
      if (event.kind === "ended") return resultOf(event.report);
    }
    throw new DmigrateError("AGENT_UNREACHABLE", "The agent ended before its migration");
  } catch (error) {
    const { code, message, exitCode } = DmigrateError.from(error);
    return { code: exitCode, outcome: undefined, errorCode: code, message, report: undefined };
  }
}

function resultOf(ended: Report): MigrateResult {
  const { outcome, error } = ended;
  const failed = error !== undefined && isErrorCode(error.code) ? error.code : "INTERNAL";
  const code = error === undefined ? 0 : ERROR_CODES[failed].exitCode;
  return { code, outcome, errorCode: error?.code, message: error?.message ?? "", report: report.parse(ended) };
}

/** The newest migration that a host knows. */
export async function newestMigration(host: Host): Promise<MigrationSummary> {
  const [newest] = await askAgent(host, (agent) => agent.list());
  assert.ok(newest, `host ${host.name} knows no migration`);
  return newest;
}

/**
 * Puts a line of shell before CRIU's dumps and restores on a host (runc calls `criu swrk`); a preflight does not meet it.
 * @returns what takes it away again
 */
export async function beforeRestores(host: Host, line: string): Promise<() => Promise<unknown>> {
  const program = `#!/bin/sh\ncase $1 in swrk) ${line} ;; esac\nexec /usr/sbin/criu.away "$@"\n`;
  const replace = 'mv /usr/sbin/criu /usr/sbin/criu.away && printf %s "$0" > /usr/sbin/criu && chmod 755 /usr/sbin/criu';
  await host.run("sh", "-c", replace, program);
  return () => host.run("mv", "/usr/sbin/criu.away", "/usr/sbin/criu");
}

/** As long as it exists, restores wait. */
const GATE = "/run/restore-gate";

/**
 * Migrates the redis, and has something happen while the target's restore is held up.
 * @param fault lets it go on by `release`, or by its end
 * @param hold a line of shell that holds it: by default before CRIU's first step
 * @param before what happens as earlier phases begin
 */
export async function whileRestoring(
  source: Host,
  target: Host,
  fault: (migration: MigrationId, release: () => Promise<unknown>) => Promise<unknown>,
  hold: (gate: string) => string = (gate) => `while [ -e ${gate} ]; do sleep 0.02; done`,
  before: Acts = {},
  mode: RequestableMode = "post-copy",
  options: MoreOptions = {},
): Promise<MigrateResult> {
  const release = (): Promise<unknown> => target.run("rm", "--force", GATE);
  await target.run("touch", GATE);
  const repair = await beforeRestores(target, hold(GATE));
  const handover = async (id: MigrationId): Promise<void> => {
    try {
      await fault(id, release);
    } finally {
      await release();
    }
  };
  const result = await migrate(source, "redis", target.name, { ...before, handover }, mode, options);
  await repair();
  return result;
}

/** A redis client on the lab's client host that notices everything, at full speed or at one that leaves the processors to others. */
export function startRedisClient(lab: Lab, address: string, speed: "full" | "gentle" = "full"): ClientProcess<RedisClientResult> {
  const program = [
    `${CHECKOUT_IN_HOST}/bin/node`,
    `${CHECKOUT_IN_HOST}/lab/workloads/redis-client.ts`,
    "--host",
    address,
    "--keys",
    "2000",
    "--pause-ms",
    speed === "full" ? "0" : "5",
  ];
  return new ClientProcess(lab.host(CLIENT).spawn(program, { stdio: ["pipe", "pipe", "inherit"] }), redisClientResult);
}

/** A redis that is started again whenever it ends, its init's process id, and a gentle client that notices everything. */
export async function watchedRedis(lab: Lab, host: Host, address: string, ...args: string[]) {
  await runContainer(host, "redis", redisImage, "--ip", address, "--restart", "always", ...args);
  const initPid = await host.run("docker", "inspect", "--format", "{{.State.Pid}}", "redis");
  const client = startRedisClient(lab, address, "gentle");
  await client.ready();
  return { initPid, client };
}

/** Asserts that a host runs the `watchedRedis` that it ran before, under its own restart policy. */
export async function assertRunsOn(host: Host, initPid: string): Promise<void> {
  await assertRuns(host, "redis");
  assert.equal(await host.run("docker", "inspect", "--format", "{{.State.Pid}}", "redis"), initPid);
  assert.equal((await host.run("docker", "inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", "redis")).trim(), "always");
  assert.equal((await host.run("timeout", "5", "docker", "exec", "redis", "redis-cli", "ping")).trim(), "PONG");
}

/** Stops a client and asserts that it never noticed more than pauses. */
export async function assertUnnoticed(client: ClientProcess<RedisClientResult>): Promise<void> {
  const { connections, lostWrites, doubleIncrements, errors, faults } = await client.stop();
  assert.deepEqual(
    { connections, lostWrites, doubleIncrements, errors },
    { connections: 1, lostWrites: 0, doubleIncrements: 0, errors: 0 },
    faults.join("\n"),
  );
}

/** Asserts that a host has no trace of a container that did not come or has left. */
export async function assertClean(host: Host, container: string): Promise<void> {
  const containers = await host.run("docker", "ps", "--all", "--format", "{{.Names}}");
  assert.ok(!containers.split("\n").includes(container), `host ${host.name} has a container ${container}`);
  await assertNothingLeft(host);
}

/** Asserts that a host has no trace of a migration, whether its container is there or not. */
export async function assertNothingLeft(host: Host): Promise<void> {
  for (const folder of ["expected", "migrations"]) {
    const left = await readdir(`${host.root}/run/dmigrate/${folder}`).catch(() => []);
    assert.deepEqual(left, [], `host ${host.name} has /run/dmigrate/${folder}/${left.join(", ")}`);
  }
  const processes = await host.run("ps", "-eo", "args");
  assert.doesNotMatch(processes, /^criu |runc .*(checkpoint|restore)|^cat$/m);
  const mounts = await host.run("cat", "/proc/self/mounts");
  assert.doesNotMatch(mounts, /\/run\/dmigrate\/|\/criu-root /);
}

/** Asserts that neither runc nor the kernel has anything of containers that the engine does not know. */
export async function assertNothingOfRunc(host: Host): Promise<void> {
  const containers = await host.run("docker", "ps", "--all", "--quiet", "--no-trunc");
  // The first may not be there.
  const { stdout: folders } = await host.exec("find", "/run/docker/runtime-runc", "/sys/fs/cgroup", "-type", "d");
  assert.deepEqual(
    [...new Set(folders.match(/[0-9a-f]{64}$/gm))].filter((id) => !containers.includes(id)),
    [],
  );
}

/** Asserts that a container runs and is neither paused nor frozen. */
export async function assertRuns(host: Host, container: string): Promise<void> {
  const state = await host.run("docker", "inspect", "--format", "{{.State.Status}}", container);
  assert.equal(state.trim(), "running", `${container} on host ${host.name}`);
}
