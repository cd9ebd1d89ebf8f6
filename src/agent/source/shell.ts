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
import { PAGE_BYTES, type PageRun } from "../../memory/page-protocol.ts";
import { reopen } from "./shut.ts";

/** What its removal needs. */
export interface Shell {
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
  const reason = isThere ? messageOf(cause) : "what was frozen here was ended, by `docker rm` or a restart of this host perhaps";
  const text =
    `${name} belongs to ${target} now, but not all of its memory got there (${reason}): what touches the rest waits for ever; ` +
    `\`docker restart ${name}\` on ${target} starts it anew, then \`docker rm --force ${name}\` removes what is left of it here` +
    (isThere ? ", frozen" : "");
  return new DmigrateError("MEMORY_LOST", text, cause);
}

/**
 * The error for a target that runs the container with other memory than it had here, where it stays, frozen, to be looked at.
 * @param different where, the first few places
 */
export function memoryAltered(name: string, target: HostName, different: readonly PageRun[]): DmigrateError {
  const places = different.map(({ process, page, pageCount }) => {
    const pages = `${pageCount} page${pageCount === 1 ? "" : "s"}`;
    return `${pages} of process ${process} from 0x${(page * PAGE_BYTES).toString(16)} on`;
  });
  const text =
    `${name} runs on ${target} with other memory than it had here (${places.join(", ")}); \`docker restart ${name}\` there starts it ` +
    `anew, what is left of it here is frozen and has all of it until \`docker rm --force ${name}\`; please report this as a bug`;
  return new DmigrateError("MEMORY_ALTERED", text);
}
