/**
 * Injection: IP packets held elsewhere are delivered inside a network namespace as if they had just arrived there.
 *
 * Raw sockets send them as they are, foreign source included (raw(7), IPPROTO_RAW). The destination being local, the kernel passes them
 * through loopback to the socket they are for, and checks no route back. A quarantine must have been lifted before.
 */
import { DmigrateError } from "../core/errors.ts";
import type { NetworkNamespace } from "../kernel/netns.ts";
import { AF, RawSocket } from "../kernel/socket.ts";
import { interfacesOf } from "./interfaces.ts";
import { destinationOf, ipHeaderOf, sourceOf } from "./ip.ts";

const IPPROTO_RAW = 255;

/** What became of packets to be injected. */
export interface Injected {
  readonly deliveredCount: number;
  /** Packets that are none, that no network could have brought, or that the namespace's own packet filter rejects. */
  readonly refusedCount: number;
}

/**
 * Delivers packets in their order; the sockets have them when this returns. Accepted is what a network could have brought: the
 * destination must be the namespace's own, or the packet would leave it under a forged source; and neither end may be what only
 * the namespace itself can be, or strangers would pass for local processes.
 */
export function inject(namespace: NetworkNamespace, packets: Iterable<Uint8Array>): Injected {
  using injector = new Injector(namespace);
  let [deliveredCount, refusedCount] = [0, 0];
  for (const packet of packets) {
    if (injector.deliver(packet)) deliveredCount += 1;
    else refusedCount += 1;
  }
  return { deliveredCount, refusedCount };
}

class Injector implements Disposable {
  readonly #ipv4: RawSocket;
  readonly #ipv6: RawSocket;
  /** The index of the interface that has an address, by the address in hexadecimal. */
  readonly #ownAddresses: ReadonlyMap<string, number>;

  constructor(namespace: NetworkNamespace) {
    const interfaces = interfacesOf(namespace);
    this.#ownAddresses = new Map(interfaces.flatMap(({ index, addresses }) => addresses.map((address) => [hex(address), index] as const)));
    [this.#ipv4, this.#ipv6] = namespace.run(() => [new RawSocket(AF.INET, IPPROTO_RAW), new RawSocket(AF.INET6, IPPROTO_RAW)]);
  }

  /** Delivers one packet; false if it was refused. */
  deliver(packet: Uint8Array): boolean {
    const header = ipHeaderOf(packet);
    if (header === undefined) return false;
    const [source, destination] = [hex(sourceOf(header)), hex(destinationOf(header))];
    const interfaceIndex = this.#ownAddresses.get(destination);
    if (interfaceIndex === undefined || this.#ownAddresses.has(source) || isLoopback(source) || isLoopback(destination)) return false;
    try {
      if (header.version === 4) this.#ipv4.send(packet, ipv4Address(destinationOf(header)));
      else this.#ipv6.send(packet, ipv6Address(destinationOf(header), interfaceIndex));
      return true;
    } catch (error) {
      if (error instanceof DmigrateError && error.code === "KERNEL") return false; // one packet's failure must not cost the others
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.#ipv4[Symbol.dispose]();
    this.#ipv6[Symbol.dispose]();
  }
}

/** 127.0.0.0/8 and ::1, in hexadecimal. */
function isLoopback(address: string): boolean {
  return address.length === 8 ? address.startsWith("7f") : /^0{31}1$/.test(address);
}

/** struct sockaddr_in: u16 family, port; address; 8 bytes unused. */
function ipv4Address(address: Uint8Array): Uint8Array {
  const bytes = Buffer.alloc(16);
  bytes.writeUInt16LE(AF.INET, 0);
  bytes.set(address, 4);
  return bytes;
}

/** struct sockaddr_in6: u16 family, port; u32 flow; address; u32 interface index, which a link-local address needs. */
function ipv6Address(address: Uint8Array, interfaceIndex: number): Uint8Array {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt16LE(AF.INET6, 0);
  bytes.set(address, 8);
  bytes.writeUInt32LE(interfaceIndex, 24);
  return bytes;
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("hex");
}
