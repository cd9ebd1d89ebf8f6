/** Completion in the shell: commands and options as commander knows them, containers, hosts and migrations as they are now. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { RootCommand, type Command as Completable, type Complete } from "@bomb.sh/tab";
import type { Argument, Command, Option } from "commander";
import type { ControlClient } from "../agent/client.ts";
import type { Command as Work } from "./invocation.ts";

/** Prints the script that a shell sources; it calls `dmigrate complete` at each press of the key. */
export const completion: Work<[shell: string]> = async (_invocation, shell) => {
  new RootCommand().setup("dmigrate", "dmigrate", shell);
  return 0;
};

/** A word that can stand for an argument, and what it is. */
type Suggestion = readonly [word: string, about: string];
/** By the argument's name. */
type Suggestions = Readonly<Record<string, readonly Suggestion[]>>;

/** Prints the words that can follow those typed so far, the last of them perhaps in part. */
export const complete: Work<[typed: string[], options: object, command: Command]> = async ({ client }, typed, _options, { parent }) => {
  const [container, host, id] = await Promise.all([inTime(containers()), inTime(hosts(client)), inTime(migrations(client))]);
  const root = new RootCommand();
  if (parent !== null) describe(root, parent, "", root, { container, host, id });
  root.parse([...typed]);
  return 0;
};

/** Tells `root` of a command and those beneath it. */
function describe(to: Completable, command: Command, path: string, root: RootCommand, suggestions: Suggestions): void {
  for (const option of command.createHelp().visibleOptions(command)) addOption(to, option);
  for (const argument of command.registeredArguments) addArgument(to, argument, suggestions);
  for (const child of command.createHelp().visibleCommands(command)) {
    const childPath = `${path} ${child.name()}`.trimStart();
    describe(root.command(childPath, child.summary()), child, childPath, root, suggestions);
  }
}

function addOption(to: Completable, { long, short, description, required, argChoices }: Option): void {
  if (long === undefined) return;
  const alias = short?.slice(1);
  if (required) to.option(long.slice(2), description, (suggest) => offer(suggest, wordsOf(argChoices)), alias);
  else to.option(long.slice(2), description, alias);
}

function addArgument(to: Completable, argument: Argument, suggestions: Suggestions): void {
  const words = suggestions[argument.name()] ?? wordsOf(argument.argChoices);
  to.argument(argument.name(), (suggest) => offer(suggest, words), argument.variadic);
}

function wordsOf(choices: readonly string[] = []): Suggestion[] {
  return choices.map((choice) => [choice, ""]);
}

function offer(suggest: Complete, words: readonly Suggestion[]): void {
  for (const [word, about] of words) suggest(word, about);
}

async function containers(): Promise<Suggestion[]> {
  const { stdout } = await promisify(execFile)("docker", ["ps", "--format", "{{.Names}}\t{{.Image}}"]);
  const lines = stdout.split("\n").filter((line) => line !== "");
  return lines.map((line) => line.split("\t")).map(([name = "", image = ""]) => [name, image]);
}

async function hosts(client: ControlClient): Promise<Suggestion[]> {
  return (await client.hosts()).filter(({ self }) => !self).map(({ name, address }) => [name, address]);
}

async function migrations(client: ControlClient): Promise<Suggestion[]> {
  return (await client.list()).map(({ id, container, target, state }) => [id, `${container} to ${target}, ${state}`]);
}

/** Someone waits with a finger on the key: better no suggestion than a late one, or an error. */
const PATIENCE_MS = 700;

async function inTime(suggestions: Promise<Suggestion[]>): Promise<Suggestion[]> {
  const { promise: late, resolve } = Promise.withResolvers<Suggestion[]>();
  const timer = setTimeout(resolve, PATIENCE_MS, []);
  try {
    return await Promise.race([suggestions.catch(() => []), late]);
  } finally {
    clearTimeout(timer);
  }
}
