/**
 * The source's network during the handover: what clients send is held instead of answered, and instead of dropped.
 *
 * The kernel acknowledges data for a frozen process too; what it acknowledges after the sockets were dumped would be lost. What it
 * drops comes again only when the client's retransmission timer runs out, 200 ms later at the earliest. So the container's network is
 * quarantined before the dump, while a packet socket, which hears more than the filters let pass, keeps what arrives.
 */
import { readable } from "../kernel/libc.ts";
import type { NetworkNamespace } from "../kernel/netns.ts";
import { PacketTap } from "../kernel/packet.ts";
import { inject, type Injected } from "./inject.ts";
import { ipHeaderOf, PROTOCOL } from "./ip.ts";
import { packetsOf } from "./offload.ts";
import { Quarantine } from "./quarantine.ts";

const ROUTER_SOLICITATION = 133;
const REDIRECT = 137;

/**
 * Holds the network of one container. Every method but `stragglers` is synchronous and throws KERNEL.
 *
 * Disposing of this ends the holding but never the quarantine: only who knows that the container stays here may lift that, by `release`.
 */
export class HeldNetwork implements AsyncDisposable {
  readonly #namespace: NetworkNamespace;
  readonly #tap: PacketTap;
  readonly #quarantine: Quarantine;
  #drained: Uint8Array[] = [];

  /** Gets everything ready so that `lock` is quick. Throws NETWORK if the namespace is the agent's own. */
  constructor(namespace: NetworkNamespace) {
    this.#namespace = namespace;
    this.#quarantine = new Quarantine(namespace);
    this.#tap = new PacketTap(namespace);
  }

  /**
   * From here on the namespace neither hears nor says anything, and what it does not hear is held. To be called once the container is
   * frozen, so that its last words get out, and before its sockets are dumped. Again after a `release`.
   */
  lock(): void {
    this.#tap.receive(); // what came since a release was heard
    this.#tap.open(); // first: a packet that is both held and heard does no harm, one that is neither costs a retransmission
    this.#quarantine.impose();
  }

  /** The IP packets held since the last call, in their order and ready to be injected elsewhere. */
  drain(): Uint8Array[] {
    const packets = this.#take();
    this.#drained = this.#drained.concat(packets);
    return packets;
  }

  /** What still arrives after the handover, from those whose way leads here yet: batches of IP packets as they come. Ends with `signal`. */
  async *stragglers(signal: AbortSignal): AsyncGenerator<Uint8Array[], void> {
    while (await readable(this.#tap.fd, signal)) {
      const packets = this.#take();
      if (packets.length > 0) yield packets;
    }
  }

  /** How many packets were lost so far because more arrived than can be held (64 MiB), or of an unknown kind. */
  lostCount(): number {
    return this.#tap.lostCount();
  }

  /** The container stays here for now, hears again, and gets all that was held, drained before or not. */
  release(): Injected {
    this.#quarantine.lift();
    const packets = [...this.#drained, ...this.#take()];
    this.#drained = [];
    return inject(this.#namespace, packets);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#quarantine[Symbol.dispose]();
    await this.#tap[Symbol.asyncDispose]();
  }

  #take(): Uint8Array[] {
    return this.#tap
      .receive()
      .filter((frame) => frame.toThisHost)
      .flatMap(packetsOf)
      .filter((packet) => !isNeighbourDiscovery(packet));
  }
}

/** Such a packet speaks of one link (RFC 4861 4) and would be out of place at another; who asked will ask again. */
function isNeighbourDiscovery(packet: Uint8Array): boolean {
  const header = ipHeaderOf(packet);
  if (header?.protocol !== PROTOCOL.ICMPV6) return false;
  const type = packet[header.headerBytes] ?? 0;
  return type >= ROUTER_SOLICITATION && type <= REDIRECT;
}
