/** What there is on this host that can stand for an argument: running containers, other hosts, migrations. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import type { Argument, Option } from "commander";
import type { ControlClient } from "../agent/client.ts";
import { hasEnded } from "../core/journal-states.ts";

/** A word that can stand for an argument, and what it is. */
export type Suggestion = readonly [word: string, about: string];
/** Finds what there is now. It may fail. */
export type Suggest = (client: ControlClient) => Promise<readonly Suggestion[]>;

const known = new WeakMap<Argument | Option, Suggest>();

/** Has completion offer for an argument, or an option's value, what `suggest` finds. */
export function suggesting<T extends Argument | Option>(argument: T, suggest: Suggest): T {
  known.set(argument, suggest);
  return argument;
}

/** What can stand for it now; its choices if it has some. */
export async function suggestionsFor(argument: Argument | Option, client: ControlClient): Promise<readonly Suggestion[]> {
  const choices = (argument.argChoices ?? []).map((choice): Suggestion => [choice, ""]);
  return (await known.get(argument)?.(client)) ?? choices;
}

/** Running ones of this host. */
export const containers: Suggest = async () => {
  const { stdout } = await promisify(execFile)("docker", ["ps", "--format", "{{.Names}}\t{{.Image}}"]);
  const lines = stdout.split("\n").filter((line) => line !== "");
  return lines.map((line) => line.split("\t")).map(([name = "", image = ""]) => [name, image]);
};

/** Without this one. */
export const otherHosts: Suggest = async (client) =>
  (await client.hosts()).filter(({ self }) => !self).map(({ name, address }) => [name, address]);

export const migrations: Suggest = async (client) =>
  (await client.list()).map(({ id, container, target, state }) => [id, `${container} to ${target}, ${state}`]);

/** Those from this host that have not ended. */
export const migrationsUnderWay: Suggest = async (client) =>
  (await client.list())
    .filter(({ role, state }) => role === "source" && !hasEnded(state))
    .map(({ id, container, target, state }) => [id, `${container} to ${target}, ${state}`]);
