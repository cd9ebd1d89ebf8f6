/**
 * The commands `dmigrate lab` and `dmigrate demo`: part of a checkout only, not of the published package.
 */
import type { Command } from "commander";
import { messageOf } from "../src/core/errors.ts";
import { startCluster } from "./cluster.ts";
import { Lab, labNames, removeAllLabs, removeLab } from "./lab.ts";
import { registerDemo } from "./demo.ts";

const say = (line: string): void => void process.stderr.write(`${line}\n`);
const list = (text: string): string[] => text.split(",").filter(Boolean);

interface UpOptions {
  readonly name: string;
  readonly hosts: string[];
  readonly usernsRemap: string[];
  readonly rate?: string;
}

function registerLab(program: Command): void {
  const lab = program
    .command("lab")
    .description("several hosts with real engines on this one machine, and a client host, on one Ethernet segment");

  lab
    .command("up")
    .description("build a lab; one of the same name is replaced")
    .option("--name <name>", "name of the lab; labs of different names live side by side", "lab")
    .option("--hosts <names>", "hosts with a Docker Engine and an agent", list, ["a", "b"])
    .option("--userns-remap <names>", "those of them whose Docker Engine remaps user ids", list, [])
    .option("--rate <rate>", "rate of every host's link, like 1gbit or 100mbit; unlimited if left out")
    .action(async (options: UpOptions) => {
      const built = await Lab.up(options, say);
      await startCluster(built);
      say(`Agents run; try: dmigrate lab exec --name ${options.name} ${options.hosts[0] ?? "a"} -- dmigrate hosts list`);
    });

  lab
    .command("down")
    .description("take a lab down and remove all it left, also after a crash")
    .option("--name <name>", "name of the lab", "lab")
    .option("--all", "every lab of this machine")
    .action(async ({ name, all }: { name: string; all?: true }) => {
      await (all === true ? removeAllLabs() : removeLab(name));
    });

  lab
    .command("exec")
    .description("run a program on a host of a lab")
    .argument("<host>", "name of the host, or `client`")
    .argument("<command...>", "program and its arguments, after --")
    .option("--name <name>", "name of the lab", "lab")
    .action(async (host: string, command: string[], { name }: { name: string }) => {
      const child = (await Lab.attach(name)).host(host).spawn(command, { stdio: "inherit" });
      process.exitCode = await new Promise<number>((resolve) =>
        child.once("close", (code, signal) => resolve(code ?? (signal === null ? 1 : 130))),
      );
    });

  lab
    .command("status")
    .description("list the labs of this machine and their hosts")
    .option("--json", "print JSON alone")
    .action(async ({ json }: { json?: true }) => {
      const labs = await Promise.all((await labNames()).map((name) => statusOf(name)));
      process.stdout.write(
        json === true ? `${JSON.stringify({ labs }, null, 2)}\n` : labs.map((each) => `${describeStatus(each)}\n`).join(""),
      );
    });
}

interface LabStatus {
  readonly name: string;
  readonly hosts: readonly { readonly name: string; readonly address: string; readonly docker: boolean }[];
  /** Why it can't be used, if it can't. */
  readonly problem?: string;
}

async function statusOf(name: string): Promise<LabStatus> {
  try {
    const { hosts } = await Lab.attach(name);
    return { name, hosts: hosts.map((host) => ({ name: host.name, address: host.address, docker: host.record.docker })) };
  } catch (error) {
    return { name, hosts: [], problem: messageOf(error) };
  }
}

function describeStatus({ name, hosts, problem }: LabStatus): string {
  const lines = hosts.map(
    (host) => `  ${host.name.padEnd(12)} ${host.address.padEnd(15)} ${host.docker ? "Docker Engine and agent" : "clients"}`,
  );
  return [`${name}${problem === undefined ? "" : `: ${problem}`}`, ...lines].join("\n");
}

/** Adds the lab's commands to the program. */
export function register(program: Command): void {
  registerLab(program);
  registerDemo(program);
}
