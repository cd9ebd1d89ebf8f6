/**
 * The demo: a live redis moves between two hosts while a client keeps writing and reading over one connection, and everything
 * that could have been lost is looked for afterwards.
 */
import { Option, type Command } from "commander";
import { once } from "node:events";
import * as z from "zod";
import { parseConfig, type RawConfig } from "../src/agent/config.ts";
import { example, transferOptions } from "../src/cli/program.ts";
import { DmigrateError } from "../src/core/errors.ts";
import { PHASES, REQUESTABLE_MODES, type RequestableMode } from "../src/core/migration.ts";
import { DMIGRATE, startCluster } from "./cluster.ts";
import { DemoLoad, paceOf, workload, type LoadResult } from "./demo-load.ts";
import type { Host } from "./host.ts";
import { redisImage } from "./images/catalogue.ts";
import { buildImage } from "./images/image.ts";
import { loadImage } from "./images/load.ts";
import { removedOnInterrupt } from "./interrupt.ts";
import { checkSpec, CLIENT, LAN, Lab, type LabSpec } from "./lab.ts";
import { ROOT_DIR } from "./setup.ts";
import { claimDemo } from "./site.ts";
import type { RedisClientResult } from "./workloads/client-result.ts";

const CONTAINER = "redis";
const ADDRESS = "10.77.0.200";
const MAC = "02:42:0a:4d:00:c8";

const report = z.looseObject({
  id: z.string(),
  outcome: z.string(),
  totalMs: z.number(),
  downtimeMs: z.number(),
  phases: z.array(z.object({ name: z.enum(PHASES), startMs: z.number(), endMs: z.number() })),
  verification: z.object({ same: z.number(), different: z.number(), released: z.number() }).optional(),
  error: z.looseObject({ message: z.string() }).optional(),
});
type Report = z.infer<typeof report>;

/** What the agents are told, besides. */
type AgentOptions = Pick<RawConfig, "order" | "cpuBudget" | "dumpPlan">;

interface DemoOptions extends AgentOptions {
  readonly name: string;
  readonly moves: number;
  readonly megabytes: number;
  readonly mode: RequestableMode;
  readonly rate?: string;
  readonly neighbours: number;
  readonly verify: boolean;
  readonly keep?: true;
  readonly json?: true;
}

/** What was looked at afterwards, and whether it was as it should be. */
interface Finding {
  readonly what: string;
  readonly holds: boolean;
  /** What was seen instead, if it does not hold. */
  readonly seen?: string;
}

/** Registers `dmigrate demo`. */
export function registerDemo(program: Command): void {
  const command = program
    .command("demo")
    .summary("migrate a live redis between two hosts of a lab and prove that nothing was lost")
    .description(
      "Builds a lab of two hosts, migrates a redis there whose client writes as fast as it can, and proves that nothing was lost. " +
        "Exit code 0 only if all of that holds.",
    )
    .option("--name <name>", "name of the lab; one of that name is replaced", "demo")
    .option("--moves <count>", "how often it moves: there, back, there, ...", (text) => parseCount(text, "moves"), 1)
    .option("--megabytes <count>", "how much data it has", (text) => parseCount(text, "megabytes"), 540)
    .addOption(
      new Option("--mode <mode>", "how its memory crosses; see `dmigrate migrate --help`").choices(REQUESTABLE_MODES).default("auto"),
    )
    .option("--rate <rate>", "rate of every host's link, like 1gbit; unlimited if left out")
    .option("--neighbours <count>", "programs beside it that want a processor each", (text) => parseCount(text, "neighbours"), 0)
    .option("--no-verify", "spare the comparison of all pages, which takes processor time, not downtime")
    .option("--keep", "leave the lab up and print commands to play with")
    .option("--json", "print the report alone")
    .action(async (options: DemoOptions) => {
      process.exitCode = await demo(options);
    });
  command.optionsGroup("Of both agents, to compare:");
  for (const option of transferOptions()) command.addOption(option);
  example(command, "dmigrate demo", "dmigrate demo --moves 2 --json", "dmigrate demo --keep --rate 1gbit", "dmigrate demo --order fifo");
}

/** Throws USAGE. */
function parseCount(text: string, what: string): number {
  if (/^0*[1-9]\d*$/.test(text)) return Number(text);
  throw new DmigrateError("USAGE", `${JSON.stringify(text)} is no number of ${what}; give a whole number from 1`);
}

/** Runs the demo; returns the exit code, 0 only if everything holds. */
async function demo(options: DemoOptions): Promise<number> {
  const spec: LabSpec = { name: options.name, hosts: ["a", "b"], ...(options.rate === undefined ? {} : { rate: options.rate }) };
  checkSpec(spec);
  const agentFlags = flagsOf(options);
  const say = options.json === true ? () => {} : (line: string) => void process.stdout.write(`${line}\n`);
  await using cleanup = new AsyncDisposableStack();
  cleanup.use(await claimDemo(spec.name));
  cleanup.use(removedOnInterrupt(spec.name));
  say("Lab: two hosts with a Docker Engine and an agent each, and a client host, on one Ethernet segment");
  const lab = await Lab.up(
    spec,
    (line) => say(`  ${line}`),
    (each) => startCluster(each, ...agentFlags),
  );
  if (options.keep === undefined) cleanup.defer(() => lab.down());
  say("  The agents know each other");

  const [a, b] = [lab.host("a"), lab.host("b")];
  const fill = onRedis("redis-fill", "fill", "--megabytes", String(options.megabytes));
  const digestBefore = await startRedis(a, lab.host(CLIENT), fill, say);
  const load = await DemoLoad.start(lab.host(CLIENT), ADDRESS, a, options.neighbours);
  say("Client: one connection, writing and reading back as fast as it can");
  await load.calm();

  const reports: Report[] = [];
  for (let move = 0; move < options.moves; move++) {
    const [source, target] = move % 2 === 0 ? [a, b] : [b, a];
    const argv = [
      "migrate",
      CONTAINER,
      target.name,
      ...(options.mode === "auto" ? [] : ["--mode", options.mode]),
      ...(options.verify ? ["--verify"] : []),
    ];
    say(`\n$ dmigrate ${argv.join(" ")}      (on host ${source.name})`);
    load.begins(nameOf(move));
    const { beganAtMs, report: ended } = await migrate(source, argv, options.json === true);
    load.ended(nameOf(move), beganAtMs, ended.phases);
    reports.push(ended);
    await load.calm();
  }
  const noticed = await load.stop();
  const { client: seen } = noticed;
  const [from, to] = options.moves % 2 === 1 ? [a, b] : [b, a];
  const findings = [
    ...judgeClient(seen),
    ...(options.verify ? [judgePages(reports)] : []),
    ...(await judgeHosts(from, to, lab.host(CLIENT), digestBefore)),
  ];
  const verified = reports.every(({ outcome }) => outcome === "completed") && findings.every(({ holds }) => holds);

  const { downtimeMs, replies, errors, connections, lostWrites } = seen;
  const last = reports.at(-1);
  if (options.json === true) {
    const clientPart = { downtimeMs, replies, errors, connections, lostWrites };
    process.stdout.write(`${JSON.stringify({ ...last, client: clientPart, verified, moves: movesOf(reports, noticed) }, null, 2)}\n`);
  } else {
    say("\nAs the client saw it");
    for (const move of movesOf(reports, noticed)) {
      const [gap, engine] = [move.clientDowntimeMs.toFixed(0), move.downtimeMs.toFixed(0)];
      say(`  ${move.name}: longest gap between replies ${gap} ms (engine: ${engine} ms), total ${(move.totalMs / 1000).toFixed(1)} s`);
      say(`    of its pace before: ${paceOf(move.repliesPerSecond)}`);
      if (options.neighbours > 0) say(`    neighbours, of theirs: ${paceOf(move.neighbourUnitsPerSecond)}`);
    }
    say(`  ${replies.toLocaleString("en")} replies, ${seen.repliesPerSecond.toLocaleString("en")}/s`);
    say("\nProof");
    for (const { what, holds, seen: instead } of findings)
      say(`  ${holds ? "ok  " : "FAIL"} ${what}${instead === undefined ? "" : `: ${instead}`}`);
    say(verified ? "\nNothing was lost." : "\nNot everything holds; see above.");
    if (options.keep === true) {
      await lab.host(CLIENT).run(...fill); // the restart above has emptied it
      sayHowToPlay(options.name, to.name, say);
    }
  }
  return verified ? 0 : 1;
}

/** Starts redis on a host and fills it; returns the digest of its data. */
async function startRedis(host: Host, client: Host, fill: readonly string[], say: (line: string) => void): Promise<string> {
  await loadImage(host, await buildImage(redisImage(ROOT_DIR), ROOT_DIR));
  const network = ["--network", LAN, "--ip", ADDRESS, "--mac-address", MAC];
  await host.run("docker", "run", "--detach", "--name", CONTAINER, "--restart", "always", ...network, "dmigrate/redis");
  await client.run(...fill);
  const memory = await host.run("docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", CONTAINER);
  say(`Redis: runs in Docker on ${host.name} at ${ADDRESS}, ${memory.split("/")[0]?.trim()} in memory`);
  return await client.run(...onRedis("redis-fill", "digest"));
}

/** argv of a program that works on the redis. */
function onRedis(name: string, what: string, ...args: readonly string[]): string[] {
  return workload(name, "--host", ADDRESS, what, ...args);
}

/** Of `dmigrate agent`. Throws USAGE if it would not take them. */
function flagsOf({ order, cpuBudget, dumpPlan }: AgentOptions): string[] {
  parseConfig({ order, cpuBudget, dumpPlan });
  return Object.entries({ "--order": order, "--cpu-budget": cpuBudget, "--dump-plan": dumpPlan }).flatMap(([flag, value]) =>
    value === undefined ? [] : [flag, value],
  );
}

/** Migrates with the same command a user gives, its live progress on the terminal; returns when it began, since 1970, and its report. */
async function migrate(source: Host, argv: readonly string[], quiet: boolean): Promise<{ beganAtMs: number; report: Report }> {
  const child = source.spawn([DMIGRATE, ...argv], { stdio: quiet ? "ignore" : "inherit" });
  await once(child, "close");
  const { migrations } = z
    .looseObject({ migrations: z.array(z.looseObject({ id: z.string(), beganAtMs: z.number() })) })
    .parse(JSON.parse(await source.run(DMIGRATE, "list", "--json")));
  const [newest] = migrations;
  if (newest === undefined) throw new DmigrateError("LAB", `The migration on host ${source.name} did not begin; its error stands above`);
  const { id, beganAtMs } = newest;
  return { beganAtMs, report: report.parse(JSON.parse(await source.run(DMIGRATE, "report", id, "--json"))) };
}

function nameOf(move: number): string {
  return `move ${move + 1}`;
}

/** Each move's report, and what its client and its neighbours noticed. */
function movesOf(reports: readonly Report[], { client, replies, units }: LoadResult) {
  return reports.map((ended, move) => {
    const name = nameOf(move);
    const clientDowntimeMs = client.spans.find((span) => span.name === name)?.downtimeMs ?? NaN;
    return { ...ended, name, clientDowntimeMs, repliesPerSecond: replies(name), neighbourUnitsPerSecond: units(name) };
  });
}

function judgeClient(seen: RedisClientResult): Finding[] {
  return [
    finding("the connection never dropped", seen.connections === 1, `${seen.connections} connections`),
    finding(
      `every acknowledged write is there (${seen.acknowledgedKeys.toLocaleString("en")} keys)`,
      seen.lostWrites === 0,
      `${seen.lostWrites} lost`,
    ),
    finding("nothing was executed twice", seen.doubleIncrements === 0, `${seen.doubleIncrements} increments`),
    finding("every reply was right", seen.errors === 0 && seen.wrongReads === 0, seen.faults.join(", ")),
  ];
}

/** Of every move: the demo's redis gives nothing back while it moves. */
function judgePages(reports: readonly Report[]): Finding {
  const [same, different] = (["same", "different"] as const).map((kind) =>
    reports.reduce((sum, { verification }) => sum + (verification?.[kind] ?? NaN), 0),
  );
  const what = `every page that the target gave it is as on the source (${same?.toLocaleString("en")} pages)`;
  return finding(what, different === 0 && (same ?? 0) > 0, `${different} pages are not`);
}

async function judgeHosts(from: Host, to: Host, client: Host, digestBefore: string): Promise<Finding[]> {
  const running = await to.exec("docker", "ps", "--filter", `name=^${CONTAINER}$`, "--format", "{{.Names}} {{.State}}");
  const left = await from.exec("docker", "ps", "--all", "--quiet", "--filter", `name=^${CONTAINER}$`);
  const answer = await to.exec("docker", "exec", CONTAINER, "redis-cli", "ping");
  const logs = await to.exec("docker", "logs", CONTAINER);
  const digestAfter = await client.exec(...onRedis("redis-fill", "digest"));
  const restarted = await to.exec("docker", "restart", CONTAINER);
  const again = await client.exec(...["redis-cli", "-h", ADDRESS, "ping"]);
  return [
    finding("all its data is unchanged (digest taken by redis itself)", digestAfter.stdout === digestBefore, "another digest"),
    finding(`docker ps on ${to.name} shows it running`, running.stdout.trim() === `${CONTAINER} running`, running.stdout + running.stderr),
    finding(`docker exec works on ${to.name}`, answer.stdout.trim() === "PONG", answer.stderr),
    finding(
      `docker logs on ${to.name} goes back to its start`,
      /Ready to accept connections/.test(logs.stdout + logs.stderr),
      "no such line",
    ),
    finding(`docker restart works on ${to.name}`, restarted.code === 0 && again.stdout.trim() === "PONG", restarted.stderr + again.stderr),
    finding(`${from.name} no longer runs it`, left.code === 0 && left.stdout.trim() === "", left.stdout + left.stderr),
  ];
}

function finding(what: string, holds: boolean, seen: string): Finding {
  return holds ? { what, holds } : { what, holds, seen: seen.trim() };
}

function sayHowToPlay(lab: string, host: string, say: (line: string) => void): void {
  const other = host === "a" ? "b" : "a";
  const on = (name: string): string => `  bin/dmigrate lab exec --name ${lab} ${name} --`;
  say(`\nThe lab is still up. Try:`);
  say(`${on(host)} docker ps`);
  say(`${on("client")} redis-cli -h ${ADDRESS} dbsize`);
  say(`${on(host)} ${DMIGRATE} migrate ${CONTAINER} ${other}`);
  say(`  bin/dmigrate lab down --name ${lab}`);
}
