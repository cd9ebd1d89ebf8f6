/** Completion in the shell: commands and options as commander knows them, and what can stand for their arguments now. */
import { RootCommand, type Command as Completable, type Complete } from "@bomb.sh/tab";
import type { Argument, Command, Option } from "commander";
import type { ControlClient } from "../agent/client.ts";
import { DmigrateError } from "../core/errors.ts";
import { answer, type Command as Work } from "./invocation.ts";
import { suggestionsFor, type Suggestion } from "./suggestions.ts";

/** Prints the script that a shell sources; it calls `dmigrate complete` at each press of the key. */
export const completion: Work<[shell: string]> = async (invocation, shell) => {
  // What the script for bash declares it can't declare again.
  const [before, after] = shell === "bash" ? ['if [ -z "${__dmigrate_completion:-}" ]; then\n__dmigrate_completion=1\n', "\nfi"] : ["", ""];
  answer(invocation, { shell, script: `${before}${scriptOf(shell)}${after}` }, ({ script }) => [script]);
  return 0;
};

/** The library can only print it, and has bash evaluate what has been typed, as if the user had pressed return. */
function scriptOf(shell: string): string {
  const lines: string[] = [];
  const { log } = console;
  console.log = (line: string) => void lines.push(line);
  try {
    new RootCommand().setup("dmigrate", "dmigrate", shell);
  } finally {
    console.log = log;
  }
  const script = lines.join("\n");
  if (shell !== "bash") return script;
  if (!script.includes(EVALUATED)) throw new DmigrateError("INTERNAL", "The script for bash has another form; please report this as a bug");
  return script.replace(EVALUATED, '$(dmigrate complete -- "${words[@]:1:cword}" 2>/dev/null)');
}

const EVALUATED = '$(eval "$requestComp" 2>/dev/null)';

/** What can stand for each argument and option. */
type Suggestions = ReadonlyMap<Argument | Option, readonly Suggestion[]>;

/** Prints the words that can follow those typed so far, the last of them perhaps in part. */
export const complete: Work<[typed: string[], options: object, command: Command]> = async ({ client }, typed, _options, { parent }) => {
  const root = new RootCommand();
  if (parent !== null) describe(root, parent, "", root, await suggestionsOn(typed, parent, client));
  root.parse([...typed]);
  return 0;
};

/** Asks for what can stand for the arguments of the command that is being typed, and of nothing else. */
async function suggestionsOn(typed: readonly string[], program: Command, client: ControlClient): Promise<Suggestions> {
  let command = program;
  for (const word of typed) command = command.commands.find((each) => each.name() === word) ?? command;
  const all = [...command.registeredArguments, ...command.options];
  return new Map(await Promise.all(all.map(async (each) => [each, await inTime(suggestionsFor(each, client))] as const)));
}

/** Tells `root` of a command and those beneath it. */
function describe(to: Completable, command: Command, path: string, root: RootCommand, suggestions: Suggestions): void {
  for (const option of command.createHelp().visibleOptions(command)) addOption(to, option, suggestions);
  for (const argument of command.registeredArguments) {
    to.argument(argument.name(), (suggest) => offer(suggest, suggestions.get(argument)), argument.variadic);
  }
  for (const child of command.createHelp().visibleCommands(command)) {
    const childPath = `${path} ${child.name()}`.trimStart();
    describe(root.command(childPath, child.summary()), child, childPath, root, suggestions);
  }
}

function addOption(to: Completable, option: Option, suggestions: Suggestions): void {
  const { long, short, description, required } = option;
  if (long === undefined) return;
  const alias = short?.slice(1);
  if (required) to.option(long.slice(2), description, (suggest) => offer(suggest, suggestions.get(option)), alias);
  else to.option(long.slice(2), description, alias);
}

function offer(suggest: Complete, words: readonly Suggestion[] = []): void {
  for (const [word, about] of words) suggest(word, about);
}

/** Someone waits with a finger on the key: better no suggestion than a late one, or an error. */
const PATIENCE_MS = 700;

async function inTime(suggestions: Promise<readonly Suggestion[]>): Promise<readonly Suggestion[]> {
  const { promise: late, resolve } = Promise.withResolvers<readonly Suggestion[]>();
  const timer = setTimeout(resolve, PATIENCE_MS, []);
  try {
    return await Promise.race([suggestions.catch(() => []), late]);
  } finally {
    clearTimeout(timer);
  }
}
