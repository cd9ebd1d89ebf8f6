/**
 * The commands `dmigrate lab` and `dmigrate demo`: part of a checkout only, not of the published package.
 */
import { Argument, Option, type Command } from "commander";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { constants } from "node:os";
import { text } from "node:stream/consumers";
import { isServed } from "../src/agent/served.ts";
import { example } from "../src/cli/program.ts";
import { suggesting } from "../src/cli/suggestions.ts";
import { DmigrateError, messageOf } from "../src/core/errors.ts";
import { startCluster } from "./cluster.ts";
import { registerDemo } from "./demo.ts";
import type { Host } from "./host.ts";
import { IMAGES } from "./images/catalogue.ts";
import { buildImage } from "./images/image.ts";
import { loadImage } from "./images/load.ts";
import { removedOnInterrupt } from "./interrupt.ts";
import { assertRoot, CLIENT, Lab, labNames, removeLab } from "./lab.ts";
import { labName } from "./paths.ts";
import { ensurePostgresRoot, ROOT_DIR } from "./setup.ts";

const say = (line: string): void => void process.stderr.write(`${line}\n`);
const print = (answer: object): void => void process.stdout.write(`${JSON.stringify(answer, undefined, 2)}\n`);
const list = (names: string): string[] => names.split(",").filter(Boolean);

interface UpOptions {
  readonly name: string;
  readonly hosts: string[];
  readonly usernsRemap: string[];
  readonly cgroup2: string[];
  readonly rate?: string;
  readonly json?: true;
}

function registerLab(program: Command): void {
  const lab = program
    .command("lab")
    .helpCommand(false)
    .hook("preAction", assertRoot)
    .summary("build several hosts on this one machine to try things out")
    .description(
      "Builds hosts with a Docker Engine and an agent each, and a client host, out of namespaces of this machine, on one Ethernet " +
        "segment. It needs root. Labs of different names live side by side; all of one goes with `lab down`.",
    );
  addUp(lab);
  addDown(lab);
  addExec(lab);
  addLoad(lab);
  addStatus(lab);
}

function addUp(lab: Command): void {
  const up = lab
    .command("up")
    .summary("build a lab")
    .description("Builds a lab and makes a cluster of its hosts. One of the same name is replaced, whatever state it is in.")
    .addOption(nameOption())
    .addOption(new Option("--hosts <names>", "hosts with a Docker Engine and an agent").argParser(list).default(["a", "b"], "a,b"))
    .addOption(
      new Option("--userns-remap <names>", "those of them whose Docker Engine remaps user ids").argParser(list).default([], "none"),
    )
    .addOption(
      new Option("--cgroup2 <names>", "those of them with cgroup v2 alone, whatever this machine has").argParser(list).default([], "none"),
    )
    .option("--rate <rate>", "rate of every host's link, like 1gbit or 100mbit; unlimited if left out")
    .option("--json", "print the lab as JSON on standard output")
    .action(async (options: UpOptions) => {
      using _interrupt = removedOnInterrupt(labName(options.name));
      await Lab.up(options, say, startCluster);
      if (options.json === true) return print({ labs: [await statusOf(options.name)] });
      for (const line of thingsToTry(options)) say(line);
    });
  example(up, "dmigrate lab up", "dmigrate lab up --name slow --hosts a,b,c --rate 100mbit");
}

/** A first migration, command by command. */
function thingsToTry({ name, hosts: [source = "a", target] }: UpOptions): string[] {
  const lab = (command: string): string => `  bin/dmigrate lab ${command.replace(" ", name === DEFAULT_NAME ? " " : ` --name ${name} `)}`;
  const run = "docker run --detach --name redis --network lan --ip 10.77.0.200 dmigrate/redis";
  return [
    "Agents run. Try:",
    lab(`load ${source} redis`),
    lab(`exec ${source} -- ${run}`),
    ...(target === undefined ? [] : [lab(`exec ${source} -- dmigrate migrate redis ${target}`)]),
    lab(`exec ${CLIENT} -- redis-cli -h 10.77.0.200 info clients`),
  ];
}

function addDown(lab: Command): void {
  const down = lab
    .command("down")
    .summary("take a lab down")
    .description("Takes a lab down and removes all it left, also after a crash: processes, mounts, cgroups, networks, disks.")
    .addOption(nameOption())
    .option("--all", "every lab of this machine")
    .option("--json", "print the names of those taken down as JSON on standard output")
    .action(async ({ name, all = false, json = false }: { name: string; all?: boolean; json?: boolean }) => {
      const known = await labNames();
      const doomed = all ? known : [labName(name)].filter((each) => known.includes(each));
      if (doomed.length === 0) say(all ? "There is no lab." : `There is no lab ${name}.`);
      for (const each of doomed) {
        await removeLab(each);
        say(`Lab ${each} is gone.`);
      }
      if (json) print({ removed: doomed });
    });
  example(down, "dmigrate lab down --name slow", "dmigrate lab down --all");
}

function addExec(lab: Command): void {
  const exec = lab
    .command("exec")
    .summary("run a program on a host of a lab")
    .description("Runs a program on a host of a lab, with this terminal as its own. Its exit code becomes that of this command.")
    .addArgument(hostArgument(`name of the host; \`${CLIENT}\` is the one for clients`))
    .argument("<command...>", "program and its arguments, after --")
    .addOption(nameOption())
    .option("--json", "print what it printed, and its exit code, as JSON on standard output")
    .action(async (host: string, command: string[], { name, json = false }: { name: string; json?: boolean }) => {
      const on = (await Lab.attach(name)).host(host);
      let printed = Promise.resolve(["", ""]);
      process.exitCode = await attended(() => {
        const child = on.spawn(command, { stdio: json ? ["inherit", "pipe", "pipe"] : "inherit" });
        if (child.stdout !== null && child.stderr !== null) printed = Promise.all([text(child.stdout), text(child.stderr)]);
        return child;
      });
      const [stdout, stderr] = await printed;
      if (json) print({ exitCode: process.exitCode, stdout, stderr });
    });
  example(
    exec,
    "dmigrate lab exec a -- docker ps --all",
    "dmigrate lab exec a -- sh",
    "dmigrate lab exec client -- redis-cli -h 10.77.0.200",
  );
}

function addLoad(lab: Command): void {
  const load = lab
    .command("load")
    .summary("give a host of a lab an image")
    .description("Loads an image into the Docker Engine of a host of a lab. It is built of this machine's own programs: nothing is pulled.")
    .addArgument(hostArgument("name of the host"))
    .addArgument(new Argument("<image>", "which image; it is called dmigrate/IMAGE there").choices(Object.keys(IMAGES)))
    .addOption(nameOption())
    .option("--json", "print the image's name as JSON on standard output")
    .action(async (host: string, image: keyof typeof IMAGES, { name, json = false }: { name: string; json?: boolean }) => {
      const on = (await Lab.attach(name)).host(host);
      if (!on.record.docker) throw new DmigrateError("LAB", `Host ${host} has no Docker Engine; name one that has: dmigrate lab status`);
      const root = image === "postgres" ? await ensurePostgresRoot() : ROOT_DIR;
      const spec = IMAGES[image](root);
      await loadImage(on, await buildImage(spec, root));
      if (json) print({ host, image: spec.name });
      else say(`Host ${host} has the image ${spec.name}.`);
    });
  example(load, "dmigrate lab load a redis");
}

function addStatus(lab: Command): void {
  const status = lab
    .command("status")
    .summary("list the labs of this machine and their hosts")
    .description("Lists the labs of this machine, also those that a crash left behind, and what runs on their hosts.")
    .option("--name <name>", "only the lab of this name")
    .option("--json", "print JSON alone")
    .action(async ({ json = false, name }: { json?: boolean; name?: string }) => {
      const names = name === undefined ? await labNames() : [labName(name)];
      if (name !== undefined && !(await labNames()).includes(name)) await Lab.attach(name); // which says so
      const labs = await Promise.all(names.map((each) => statusOf(each)));
      if (json) return print({ labs });
      for (const line of labs.flatMap((each) => describeStatus(each))) process.stdout.write(`${line}\n`);
    });
  example(status, "dmigrate lab status", "dmigrate lab status --json");
}

const DEFAULT_NAME = "lab";

function nameOption(): Option {
  const option = new Option("--name <name>", "name of the lab").default(DEFAULT_NAME);
  return suggesting(option, async () => (await labNames()).map((name) => [name, ""]));
}

function hostArgument(about: string): Argument {
  return suggesting(new Argument("<host>", about), async () => {
    const labs = await Promise.all((await labNames()).map((name) => statusOf(name)));
    return labs.flatMap(({ name, hosts }) => hosts.map((host) => [host.name, `of lab ${name}`]));
  });
}

/** Leaves the keyboard and other ends to the child that `spawn` starts; returns its exit code as a shell tells it. */
async function attended(spawn: () => ChildProcess): Promise<number> {
  // The child may be at work before `spawn` returns, so whoever waits for that may signal us by then.
  process.on("SIGINT", () => {}); // the terminal sends it to the child as well
  for (const signal of ["SIGTERM", "SIGHUP"] as const) process.on(signal, () => child.kill(signal));
  const child = spawn();
  const [code, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null]; // as child_process documents
  return code ?? SIGNALLED + (signal === null ? 0 : constants.signals[signal]);
}

/** To this a shell adds the number of the signal that ended a program. */
const SIGNALLED = 128;

interface LabStatus {
  readonly name: string;
  readonly hosts: readonly HostStatus[];
  /** Why it can't be used, if it can't. */
  readonly problem?: string;
}

/** `docker` and `agent` tell whether there is one. */
interface HostStatus {
  readonly name: string;
  readonly address: string;
  readonly docker: boolean;
  readonly usernsRemap: boolean;
  readonly cgroup2: boolean;
  readonly agent: boolean;
}

async function statusOf(name: string): Promise<LabStatus> {
  try {
    const { hosts } = await Lab.attach(name);
    return { name, hosts: await Promise.all(hosts.map((host) => hostStatusOf(host))) };
  } catch (error) {
    return { name, hosts: [], problem: messageOf(error) };
  }
}

async function hostStatusOf({ name, address, dockerSocket, record: { usernsRemap, cgroup2 }, root }: Host): Promise<HostStatus> {
  const [docker, agent] = await Promise.all([isServed(dockerSocket), isServed(`${root}/run/dmigrate/agent.sock`)]);
  return { name, address, docker, usernsRemap, cgroup2, agent };
}

function describeStatus({ name, hosts, problem }: LabStatus): string[] {
  const lines = hosts.map(({ name: host, address, docker, usernsRemap, cgroup2, agent }) => {
    const parts = [
      docker ? "Docker Engine" : "",
      usernsRemap ? "user ids remapped" : "",
      cgroup2 ? "cgroup v2 alone" : "",
      agent ? "agent" : "",
    ].filter(Boolean);
    return `  ${host.padEnd(14)}${address.padEnd(14)}${parts.join(", ")}`.trimEnd();
  });
  return [`${name}${problem === undefined ? "" : `: ${problem}`}`, ...lines];
}

/** Adds the lab's commands to the program. */
export function register(program: Command): void {
  registerLab(program);
  registerDemo(program);
}
