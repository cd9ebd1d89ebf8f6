/**
 * Whether this host can hold and silence a network: tried out in a namespace of its own, so that nothing of the host changes.
 */
import { NetworkNamespace } from "../kernel/netns.ts";
import { HeldNetwork } from "./hold.ts";

/**
 * Throws KERNEL if the host lacks what a handover needs of the network. A good end has a second use: whatever lies in the downtime has
 * then run once in this process, and is several times quicker for it.
 */
export async function probeNetwork(): Promise<void> {
  using namespace = NetworkNamespace.create();
  await using held = new HeldNetwork(namespace);
  held.lock();
  held.release();
}
