/**
 * The preflight of a migration: examines both hosts and the container. Nothing is changed.
 */
import { DmigrateError } from "../../core/errors.ts";
import type { HostName } from "../../core/ids.ts";
import { examine, type Examination, type Finding } from "../../core/preflight.ts";
import type { ContainerDescription } from "../../docker/description.ts";
import type { Engine } from "../../docker/engine.ts";
import { gatherContainer } from "../../preflight/container.ts";
import { writeArriving } from "../../preflight/schema.ts";
import type { AgentContext } from "../context.ts";
import { hostFactsOf } from "../host-facts.ts";
import type { CallOptions, MigrateRequest } from "../migrations.ts";

/** Finds out whether a container can move to a host, in a mode. */
export async function runPreflight(
  context: AgentContext,
  engine: Engine,
  description: ContainerDescription,
  { target, mode }: Pick<MigrateRequest, "target" | "mode">,
  options: CallOptions = {},
): Promise<Examination> {
  const container = await gatherContainer(engine, description);
  const arriving = writeArriving({ needs: container.needs, description, source: context.self() });
  const ours = hostFactsOf(context);
  const theirs = context.peers.to(target).facts(arriving, options);
  await Promise.allSettled([ours, theirs]); // what was begun here to find out has ended then, whatever failed
  return examine(await ours, await theirs, container, mode);
}

/** Throws PREFLIGHT_BLOCKED, naming every blocker with its remedy. */
export function refuseBlockers(container: string, target: HostName, findings: readonly Finding[]): void {
  const blockers = findings.filter(({ severity }) => severity === "blocker");
  if (blockers.length === 0) return;
  const reasons = blockers.map(({ message, remedy }) => `${message}; ${remedy}`);
  const list = reasons.length === 1 ? ` ${reasons[0]}` : reasons.map((reason) => `\n- ${reason}`).join("");
  throw new DmigrateError("PREFLIGHT_BLOCKED", `${container} can't move to ${target}:${list}`);
}
