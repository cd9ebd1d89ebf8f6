/**
 * The interfaces of a network namespace and their addresses (rtnetlink(7)).
 */
import { attributesOf, NETLINK, NetlinkSocket } from "../kernel/netlink.ts";
import type { NetworkNamespace } from "../kernel/netns.ts";

/** An interface, whatever its state. */
export interface Interface {
  readonly index: number;
  readonly name: string;
  readonly isUp: boolean;
  /** Whether it is up and something is at the other end. */
  readonly hasCarrier: boolean;
  /** Its Ethernet address, 6 bytes; undefined if it is of another kind. */
  readonly mac: Uint8Array | undefined;
  /** Its own IP addresses, 4 or 16 bytes each. */
  readonly addresses: readonly Uint8Array[];
}

/** <linux/rtnetlink.h>, <linux/if_link.h>, <linux/if_addr.h>. */
const RTM_GETLINK = 18;
const RTM_GETADDR = 22;
const IFINFOMSG_BYTES = 16; // u8 family, pad; u16 hardware type; i32 index; u32 flags, change
const IFADDRMSG_BYTES = 8; // u8 family, prefix length, flags, scope; u32 index
const IFLA = { ADDRESS: 1, IFNAME: 3 } as const;
const IFA = { ADDRESS: 1, LOCAL: 2 } as const; // LOCAL is there where ADDRESS may be the other end's
const ARPHRD_ETHER = 1;
const IFF_UP = 1;
const IFF_LOWER_UP = 1 << 16;

/** Lists all interfaces, loopback too. Throws KERNEL. */
export function interfacesOf(namespace: NetworkNamespace): Interface[] {
  using netlink = namespace.run(() => new NetlinkSocket(NETLINK.ROUTE));
  const addresses = netlink.dump(RTM_GETADDR, Buffer.alloc(IFADDRMSG_BYTES)).map((message) => {
    const attributes = attributesOf(message.subarray(IFADDRMSG_BYTES));
    return { index: message.readUInt32LE(4), bytes: attributes.get(IFA.LOCAL) ?? attributes.get(IFA.ADDRESS) ?? Buffer.alloc(0) };
  });
  return netlink.dump(RTM_GETLINK, Buffer.alloc(IFINFOMSG_BYTES)).map((message) => {
    const attributes = attributesOf(message.subarray(IFINFOMSG_BYTES));
    const index = message.readInt32LE(4);
    return {
      index,
      name: (attributes.get(IFLA.IFNAME) ?? Buffer.alloc(0)).toString().replace(/\0$/, ""),
      isUp: (message.readUInt32LE(8) & IFF_UP) !== 0,
      hasCarrier: (message.readUInt32LE(8) & IFF_LOWER_UP) !== 0,
      mac: message.readUInt16LE(2) === ARPHRD_ETHER ? attributes.get(IFLA.ADDRESS) : undefined,
      addresses: addresses.filter((address) => address.index === index).map((address) => address.bytes),
    };
  });
}

/** Their names, by each of their addresses in hexadecimal digits. */
export function namesByAddress(interfaces: readonly Interface[]): Record<string, string> {
  return Object.fromEntries(
    interfaces.flatMap(({ name, addresses }) => addresses.map((address) => [Buffer.from(address).toString("hex"), name])),
  );
}

/** A warning for each interface that has one name there and another here. Both as `namesByAddress` has them. */
export function renamedInterfaces(there: Readonly<Record<string, string>>, here: Readonly<Record<string, string>>): string[] {
  const renamed = Object.entries(there).flatMap(([address, name]) => {
    const now = here[address] ?? name;
    return now === name
      ? []
      : [`Its interface ${name} is called ${now} on the target: Docker names them in the order of their networks' names`];
  });
  return [...new Set(renamed)];
}
