/** The command `dmigrate`: its commands and options, their help, and how an error ends it. */
import { Argument, Command, CommanderError, Option, type CommandOptions } from "commander";
import manifest from "../../package.json" with { type: "json" };
import { parseRate } from "../core/rate-limit.ts";
import { DmigrateError, ERROR_CODES } from "../core/errors.ts";
import { REQUESTABLE_MODES } from "../core/migration.ts";
import type { Command as Work } from "./invocation.ts";
import { errorJson, renderError } from "./render-error.ts";
import { containers, migrations, migrationsUnderWay, otherHosts, suggesting, type Suggest } from "./suggestions.ts";
import type { Surroundings } from "./surroundings.ts";

/** Adds commands of its own to the program: a checkout has some that a published package lacks. Called only if they are needed. */
export type Extension = (program: Command) => Promise<void>;

/**
 * Runs one command; returns the exit code.
 * @param argv the arguments after the program's name
 */
export async function runCli(argv: readonly string[], surroundings: Surroundings, extend?: Extension): Promise<number> {
  const outcome = { exitCode: 0 };
  const program = dmigrate(surroundings, outcome);
  try {
    if (!program.commands.some((each) => each.name() === argv[0] && !KNOWS_ALL.has(each.name()))) await extend?.(program);
    await program.parseAsync(argv, { from: "user" });
    return outcome.exitCode;
  } catch (thrown) {
    if (thrown instanceof CommanderError && WAS_ANSWERED.has(thrown.code)) return thrown.exitCode === 0 ? 0 : ERROR_CODES.USAGE.exitCode;
    const error = thrown instanceof CommanderError ? usageError(thrown, program, argv) : DmigrateError.from(thrown);
    const { out, err } = surroundings;
    const options = argv.slice(0, argv.includes("--") ? argv.indexOf("--") : undefined);
    if (options.includes("--json")) out.write(`${JSON.stringify(errorJson(error), undefined, 2)}\n`);
    else err.write(`${renderError(error, err.paint).join("\n")}\n`);
    return error.exitCode;
  }
}

/** Commands that know all the others. */
const KNOWS_ALL: ReadonlySet<string> = new Set(["complete", "help"]);

/** Commander's ends at which the user has read what there is to read: help, or the version. */
const WAS_ANSWERED: ReadonlySet<string> = new Set(["commander.help", "commander.helpDisplayed", "commander.version"]);

function usageError({ code, message }: CommanderError, program: Command, argv: readonly string[]): DmigrateError {
  let meant = program;
  let next: string | undefined;
  for (const word of argv) {
    const named = meant.commands.find((each) => each.name() === word);
    if (named === undefined) {
      next = word;
      break;
    }
    meant = named;
  }
  // A group of commands hands a word that it does not know to its default command.
  const isMistyped = code === "commander.excessArguments" && meant.commands.length > 0 && next?.startsWith("-") === false;
  const [problem = "", suggestion] = isMistyped ? [`unknown command '${next}'`] : message.replace(/^error: /, "").split("\n");
  const hint = suggestion === undefined ? "" : ` ${suggestion}`;
  return new DmigrateError("USAGE", `${problem.charAt(0).toUpperCase()}${problem.slice(1)}${hint}; see \`${pathOf(meant)} --help\``);
}

/** `dmigrate hosts add`. */
function pathOf(child: Command): string {
  return child.parent === null ? child.name() : `${pathOf(child.parent)} ${child.name()}`;
}

const QUICK_START = `
Quick start:
  dmigrate agent                        on every host, as root: the daemon that does the work
  dmigrate init a --address 10.0.0.1    on the first host; then \`dmigrate hosts add\` for each of the others
  dmigrate migrate redis b              moves the running container redis to host b`;

/** @param outcome where a command that ends without an error leaves its exit code */
function dmigrate(surroundings: Surroundings, outcome: { exitCode: number }): Command {
  const { out, err } = surroundings;
  const program = new Command("dmigrate")
    .description("Moves running Docker containers to other hosts. Their clients stay connected, nothing is lost, nothing runs twice.")
    .version(manifest.version, "-V, --version", "print the version")
    .helpOption("-h, --help", "show this help, or a command's")
    .helpCommand(false)
    .addHelpText("after", QUICK_START)
    .addHelpText("after", "\n`dmigrate COMMAND --help` says what a command does to the container. docs/errors.md lists the exit codes.")
    .configureHelp({
      sortOptions: true,
      subcommandTerm: (child) => [child.name(), ...child.registeredArguments.map((argument) => `<${argument.name()}>`)].join(" "),
      styleTitle: (title) => out.paint("strong", title),
    })
    .configureOutput({
      writeOut: (text) => out.write(text),
      writeErr: (text) => err.write(text),
      outputError: () => {}, // runCli tells errors, in one form for all of them
      getOutHelpWidth: () => Math.min(out.columns, HELP_COLUMNS_MAX),
      getErrHelpWidth: () => Math.min(err.columns, HELP_COLUMNS_MAX),
    })
    .exitOverride();

  // Commander ends an action's arguments with its options and the command.
  const run: Run =
    (choose) =>
    async (...args) => {
      const { json = false, socket } = (args.at(-1) as Command).opts<{ json?: boolean; socket?: string }>();
      const all = await import("./commands.ts");
      using client = await surroundings.connect(socket);
      outcome.exitCode = await choose(all)({ ...surroundings, json, client }, ...args);
    };
  addMigrating(program, run);
  addLooking(program, run);
  addHelp(program);
  addSetup(program, surroundings, run);
  addShell(program, run);
  program.commandsGroup("Try out:");
  return program;
}

const HELP_COLUMNS_MAX = 100;

/** Makes an action for commander of one of the commands, which are loaded only when one of them runs. */
type Run = <Arguments extends unknown[]>(
  choose: (all: typeof import("./commands.ts")) => Work<Arguments>,
) => (...args: Arguments) => Promise<void>;

/** Adds a command that asks the agent. */
function command(parent: Command, name: string, options: CommandOptions = {}): Command {
  return parent.command(name, options).option("--json", "answer in JSON on standard output, errors too").addOption(socketOption());
}

function socketOption(): Option {
  return new Option("--socket <path>", "control socket of this host's agent").env("DMIGRATE_SOCKET");
}

/** What has been typed for that option so far. */
function typedSocket(words: readonly string[]): string | undefined {
  const at = words.findLastIndex((word, index) => word === "--socket" || (word.startsWith("--socket=") && index < words.length - 1));
  const word = words[at];
  return word === "--socket" ? words[at + 1] : word?.slice("--socket=".length);
}

const container = suggesting(new Argument("<container>", "name or id of a running container on this host"), containers);
const otherHost = suggesting(new Argument("<host>", "name of another host, as `dmigrate hosts list` shows it"), otherHosts);
const idOf = (suggest: Suggest): Argument => suggesting(new Argument("<id>", "id of a migration, as `dmigrate list` shows it"), suggest);

function modeOption(description: string): Option {
  return new Option("--mode <mode>", description).choices(REQUESTABLE_MODES).default("auto");
}

/** Throws USAGE. */
function rate(text: string): number {
  const bytesPerSecond = parseRate(text);
  if (bytesPerSecond !== undefined) return bytesPerSecond;
  throw new DmigrateError("USAGE", `${JSON.stringify(text)} is no rate of at least 100kbit; write it like 200mbit or 1gbit`);
}

/** Throws USAGE. */
function milliseconds(text: string): number {
  if (/^\d+(\.\d+)?$/.test(text) && Number(text) > 0) return Number(text);
  throw new DmigrateError("USAGE", `${JSON.stringify(text)} is no number of milliseconds; give one above 0, like 500`);
}

const MODES_HELP = `
Modes:
  auto           measures for a tenth of a second, predicts each, and takes warm or post-copy
  warm           memory is copied while the container runs here; what it wrote meanwhile follows
                 after the handover
  post-copy      all memory follows after the handover: for what writes all of it again and again
  pre-copy       as warm, but nothing is missing at the handover: the container stands still for
                 what it wrote last, and stays here if that does not get little
  stop-and-copy  all memory crosses while the container stands still
With warm and post-copy the container needs this host until its memory has followed.`;

/** What a command's help ends with: how it is used. */
export function example(of: Command, ...lines: readonly string[]): void {
  of.addHelpText("after", `\nExample:\n${lines.map((line) => `  ${line}`).join("\n")}`);
}

function addMigrating(program: Command, run: Run): void {
  program.commandsGroup("Migrate:");
  const migrate = command(program, "migrate")
    .summary("move a running container to another host")
    .description(
      "Moves a running container to another host. It stands still for a moment, then runs there as an ordinary container: same name, " +
        "address, files and memory, connections still open. Until the handover any failure, and Ctrl-C, leave it running here as if " +
        "nothing had happened. After the handover it belongs to the target; here it is removed. Ctrl-C then leaves: the migration goes on.",
    )
    .addArgument(container)
    .addArgument(otherHost)
    .addOption(modeOption("how memory crosses; see below"))
    .option("--max-downtime <ms>", "how long it may stand still: if the mode is predicted to take longer, it stays here", milliseconds)
    .option("--bandwidth <rate>", "what it may send in a second of what nobody waits for, like 200mbit; no limit if left out", rate)
    .option("--keep-source", "leave the stopped container here instead of removing it, to be started by nobody but you", false)
    .option("--verify", "compare all memory that comes after the handover with what the source had; takes time, no downtime", false)
    .option("--detach", "return as soon as the migration has begun", false)
    .action(run((all) => all.migrate));
  migrate.addHelpText("after", MODES_HELP);
  example(
    migrate,
    "dmigrate migrate redis b",
    "dmigrate migrate redis b --max-downtime 500",
    "dmigrate migrate redis b --json > report.json",
  );

  const check = command(program, "check")
    .summary("tell whether a container can move, without touching it")
    .description(
      "Examines both hosts and the container as a migration would, and tells what forbids it and what to do about that. Nothing is " +
        "changed, the container keeps running undisturbed. Exit code 4 if something forbids the migration.",
    )
    .addArgument(container)
    .addArgument(otherHost)
    .addOption(modeOption("of the migration that is to come"))
    .action(run((all) => all.check));
  example(check, "dmigrate check redis b");

  const cancel = command(program, "cancel")
    .summary("end a migration before its handover")
    .description(
      "Undoes a migration: the container goes on running on the source, the target is clean again. After the handover that is " +
        "refused, for the container runs on the target then. Run it on the source.",
    )
    .addArgument(idOf(migrationsUnderWay))
    .option(
      "--take-back",
      "also when the target was lost in the handover and does not say whether it runs the container: you answer for it that it does not, " +
        "and never will",
      false,
    )
    .action(run((all) => all.cancel));
  example(cancel, "dmigrate cancel m0k3v9x2q7ab1");
}

function addLooking(program: Command, run: Run): void {
  program.commandsGroup("Look:");
  const list = command(program, "list")
    .summary("show the migrations this host has seen")
    .description("Shows the migrations to and from this host, the newest first: those that run and those that ended.")
    .action(run((all) => all.list));
  example(list, "dmigrate list");

  const watch = command(program, "watch")
    .summary("show a running migration")
    .description(
      "Joins a migration: shows what has happened, then what happens, until it ended. Ctrl-C leaves; neither watching nor leaving " +
        "does anything to the container. With --json, an event a line. Run it on the source.",
    )
    .addArgument(idOf(migrations))
    .action(run((all) => all.watch));
  example(watch, "dmigrate watch m0k3v9x2q7ab1");

  const report = command(program, "report")
    .summary("show what a migration did, and how long each step took")
    .description("Shows the report of a migration that ended: who runs the container, the downtime, the time line, what was sent.")
    .addArgument(idOf(migrations))
    .action(run((all) => all.report));
  example(report, "dmigrate report m0k3v9x2q7ab1", "dmigrate report m0k3v9x2q7ab1 --json");

  const status = command(program, "status")
    .summary("show this host's agent, and the token by which it can be added")
    .description("Shows whether the agent runs, which host of which address it is and, as long as it is in no cluster, its join token.")
    .action(run((all) => all.status));
  example(status, "dmigrate status");
}

function addHelp(program: Command): void {
  program
    .command("help")
    .description("show this help, or a command's")
    .argument("[command...]", "like `hosts add`")
    .action((words: readonly string[]) => {
      let meant = program;
      for (const word of words) {
        const named = meant.commands.find((each) => each.name() === word);
        if (named === undefined) throw new DmigrateError("USAGE", `Unknown command '${word}'; see \`${pathOf(meant)} --help\``);
        meant = named;
      }
      meant.outputHelp();
    });
}

/** The agent's options that say how it copies and sends, for whoever compares. */
export function transferOptions(): Option[] {
  return [
    new Option(
      "--order <order>",
      "what it sends to other hosts leaves by priority, or as it comes (fifo), to show what that is worth; default: priority",
    ).choices(["priority", "fifo"]),
    new Option(
      "--cpu-budget <percent>",
      "how much of this machine's processor time copying may take where none is idle, 1 to 100; what is idle it may always have " +
        "(default: 20)",
    ),
    new Option(
      "--dump-plan <plan>",
      "whether readers, chunks and processor time are planned from what is measured, or fixed, for comparison; default: measured",
    ).choices(["measured", "fixed"]),
  ];
}

function addSetup(program: Command, surroundings: Surroundings, run: Run): void {
  program.commandsGroup("Set up:");
  const agent = program
    .command("agent")
    .summary("run this host's agent, the daemon that does the work")
    .description(
      "Runs the agent of this host until SIGTERM or Ctrl-C; it needs root. It goes on with what an agent before it left unfinished. " +
        "While it does not run, containers are not affected, but none can migrate. Each option can also be given as an environment " +
        "variable, like DMIGRATE_LISTEN.",
    )
    .option("--listen <address>", "where other hosts reach it: HOST:PORT, or :PORT for every address (default: :7461)")
    .option("--state-dir <path>", "keys, list of hosts, journal (default: /var/lib/dmigrate)")
    .option("--run-dir <path>", "control socket and running migrations (default: /run/dmigrate)")
    .option("--docker-socket <path>", "Docker Engine's socket (default: /var/run/docker.sock)")
    .addOption(
      new Option(
        "--page-handler <handler>",
        "who serves the pages of restored tasks: the agent, or `criu lazy-pages`; default: own",
      ).choices(["own", "criu"]),
    )
    .addOption(new Option("--log-level <level>", "how much it says; default: info").choices(["debug", "info", "warn", "error", "silent"]))
    .option("--json", "if it can't start, print why as JSON on standard output; its log on standard error is always JSON")
    .action((flags: Readonly<Record<string, string>>) => surroundings.serve(flags));
  for (const option of transferOptions()) agent.addOption(option);
  program
    .command("guard", { hidden: true })
    .description(
      "An agent runs this for each migration: it outlives it, and lets the container run on if it is killed before the handover.",
    )
    .argument("<id>")
    .option("--state-dir <path>")
    .option("--run-dir <path>")
    .option("--docker-socket <path>")
    .action((id: string, flags: Readonly<Record<string, string>>) => surroundings.guard(id, flags));
  example(agent, "dmigrate agent", "dmigrate agent --listen 10.0.0.1:7461 --log-level debug");
  addHosts(program, run);
}

function addHosts(program: Command, run: Run): void {
  const name = new Argument("<name>", "name for the host: lower-case letters, digits, inner hyphens");
  const address = "where other hosts reach its agent: HOST or HOST:PORT";

  const init = command(program, "init")
    .summary("make this host the first of a new cluster")
    .description(
      "Makes keys and certificates, with which the hosts of a cluster know each other, and makes this host its first member. Only this " +
        "host can add others. No container is touched.",
    )
    .addArgument(name)
    .requiredOption("--address <address>", `${address}; without PORT that of this agent`)
    .action(run((all) => all.init));
  example(init, "dmigrate init a --address 10.0.0.1");

  const hosts = program
    .command("hosts")
    .helpCommand(false)
    .summary("show, add and remove the hosts of the cluster")
    .description("Shows, adds and removes the hosts between which containers can move.");
  const list = command(hosts, "list", { isDefault: true })
    .summary("show the hosts, and which of them answer")
    .description("Shows the hosts of the cluster, and whether each answers now.")
    .action(run((all) => all.hostsList));
  example(list, "dmigrate hosts list");
  const add = command(hosts, "add")
    .summary("add a host whose agent runs")
    .description(
      "Adds a host whose agent runs but is in no cluster yet. Its token comes from `dmigrate status` there and works once. Run it on " +
        "the host where `dmigrate init` was run.",
    )
    .addArgument(name)
    .argument("<address>", `${address}; without PORT 7461`)
    .requiredOption("--token <token>", "the host's join token")
    .action(run((all) => all.hostsAdd));
  example(add, "dmigrate hosts add b 10.0.0.2 --token TOKEN");
  const remove = command(hosts, "remove")
    .summary("remove a host")
    .description(
      "Removes a host from the cluster: no container moves to or from it any more. Those on it go on running. A host that removes " +
        "itself leaves. The host where `dmigrate init` was run holds the cluster's key: it can be removed only when no other is left.",
    )
    .addArgument(suggesting(new Argument("<host>", "name of a host, as `dmigrate hosts list` shows it"), otherHosts))
    .action(run((all) => all.hostsRemove));
  example(remove, "dmigrate hosts remove b");
}

function addShell(program: Command, run: Run): void {
  const completion = program
    .command("completion")
    .summary("print the completion script of a shell")
    .description(
      "Prints the script by which a shell completes commands, options, containers, hosts and migrations. For bash it builds on the " +
        "package bash-completion.",
    )
    .addArgument(new Argument("<shell>", "which shell").choices(["bash", "zsh", "fish"]))
    .option("--json", "print shell and script as JSON, errors too")
    .action(run((all) => all.completion));
  example(completion, "source <(dmigrate completion bash)", "dmigrate completion bash > /etc/bash_completion.d/dmigrate");
  program
    .command("complete", { hidden: true })
    .argument("[words...]")
    .addOption(socketOption())
    .action((words: string[], options: object, complete: Command) => {
      const socket = typedSocket(words);
      if (socket !== undefined) complete.setOptionValue("socket", socket);
      return run((all) => all.complete)(words, options, complete);
    });
}
