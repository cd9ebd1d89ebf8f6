/**
 * The facts of this host for a preflight, on either side.
 */
import type { HostFacts } from "../core/preflight-facts.ts";
import { probeNetwork } from "../network/probe.ts";
import { gatherHost } from "../preflight/host.ts";
import type { Arriving } from "../preflight/schema.ts";
import type { AgentContext } from "./context.ts";
import { hasMovedAway } from "./moved-volumes.ts";

/**
 * Gathers the facts of this host.
 * @param arriving the container about to come, if this is to be its target
 */
export function hostFactsOf(context: AgentContext, arriving?: Arriving): Promise<HostFacts> {
  const { config, journal } = context;
  return gatherHost({
    host: context.self(),
    dockerSocket: config.dockerSocket,
    imageFolder: config.runDir,
    tryNetwork: probeNetwork,
    hasMovedAway: (volume, identity) => hasMovedAway(journal, volume, identity),
    ...(arriving === undefined ? {} : { arriving }),
  });
}
