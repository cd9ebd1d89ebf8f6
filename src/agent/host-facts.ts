/**
 * The facts of this host for a preflight, on either side.
 */
import type { HostName } from "../core/ids.ts";
import type { HostFacts } from "../core/preflight-facts.ts";
import { probeNetwork } from "../network/probe.ts";
import { gatherHost } from "../preflight/host.ts";
import type { Arriving } from "../preflight/schema.ts";
import type { AgentContext } from "./context.ts";
import { hasMovedAway } from "./moved-volumes.ts";
import type { Peers } from "./peers.ts";

/**
 * Gathers the facts of this host.
 * @param arriving the container about to come, if this is to be its target
 */
export function hostFactsOf(context: AgentContext, arriving?: Arriving): Promise<HostFacts> {
  const { config, journal, peers } = context;
  return gatherHost({
    host: context.self(),
    dockerSocket: config.dockerSocket,
    imageFolder: config.runDir,
    pageHandler: config.pageHandler,
    tryNetwork: probeNetwork,
    hasMovedAway: (volume, identity) => hasMovedAway(journal, volume, identity),
    ...(arriving === undefined ? {} : { arriving, tryReturn: () => reach(peers, arriving.source) }),
  });
}

/** Throws PEER_UNREACHABLE or PEER_REFUSED: a target must see whether the source still lives. */
async function reach(peers: Peers, host: HostName): Promise<void> {
  using _attendance = await peers.to(host).attend();
}
