/**
 * The empty shell: what is left on the source of a container that belongs to the target.
 */
import { existsSync } from "node:fs";
import { DmigrateError, messageOf } from "../../core/errors.ts";
import type { ContainerId, HostName } from "../../core/ids.ts";
import { freezerOf } from "../../criu/freezer.ts";
import type { Engine } from "../../docker/engine.ts";
import { discardContainer } from "../../docker/lifecycle.ts";
import { unless } from "../../docker/transport.ts";
import { reopen } from "./shut.ts";

interface Shell {
  /** Of the container that was frozen; if that has ended there are no tasks to end. */
  readonly initPid: number;
  readonly keepSource: boolean;
  /** The file that is its /etc/hosts. */
  readonly hostsFile: string;
}

/**
 * Ends its frozen tasks, none of which runs another instruction, and removes it, or leaves it stopped, to be started by hand. The target
 * runs the container, also when this throws.
 */
export async function removeShell(engine: Engine, id: ContainerId, { initPid, keepSource, hostsFile }: Shell): Promise<void> {
  const found = await engine.inspectContainer(id).catch(unless(404));
  if (found?.State.Pid === initPid) await (await freezerOf(initPid)).kill();
  if (keepSource) reopen(hostsFile);
  else if (found !== undefined) await discardContainer(engine, id, { volumes: true });
}

/**
 * The error for a shell that is not empty: it has memory that did not get to the target, which runs the container without it.
 * @param initPid of the container that was frozen
 */
export function memoryLost(name: string, target: HostName, initPid: number, cause: unknown): DmigrateError {
  const isThere = existsSync(`/proc/${initPid}/ns/net`);
  const reason = isThere ? messageOf(cause) : "what was frozen here was ended, by `docker stop` perhaps";
  const text =
    `${name} belongs to ${target} now, but not all of its memory got there (${reason}): what touches the rest waits for ever; ` +
    `\`docker restart ${name}\` on ${target} starts it anew, then \`docker rm --force ${name}\` removes what is left of it here` +
    (isThere ? ", frozen" : "");
  return new DmigrateError("MEMORY_LOST", text, cause);
}
