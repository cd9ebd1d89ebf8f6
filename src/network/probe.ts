/**
 * Whether this host can hold and silence a network: tried out in a namespace of its own, so that nothing of the host changes.
 */
import { NetworkNamespace } from "../kernel/netns.ts";
import { HeldNetwork } from "./hold.ts";

/**
 * Throws KERNEL if the host lacks what a handover needs of the network. It has a second use: what lies in the downtime has then run once
 * in this process, and the first time is the slowest.
 */
export async function probeNetwork(): Promise<void> {
  using namespace = NetworkNamespace.create();
  await using held = new HeldNetwork(namespace);
  held.lock();
  held.release();
}
