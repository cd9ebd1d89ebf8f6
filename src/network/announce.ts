/**
 * The announcement of a container's new place: switches learn behind which port it is, neighbours under which Ethernet address.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { NetworkNamespace } from "../kernel/netns.ts";
import { ETHERTYPE, PacketSender } from "../kernel/packet.ts";
import { checksumFor, onesSum, pseudoHeaderSum } from "./checksum.ts";
import { interfacesOf } from "./interfaces.ts";
import { PROTOCOL } from "./ip.ts";

/** The pause before each time: at once, and again in case it got lost. */
const PAUSES_MS = [0, 50, 150, 300, 500];
const ARP_REQUEST = 1;
const ARP_REPLY = 2;
const BROADCAST = "ffffffffffff";
const ALL_NODES = "ff020000000000000000000000000001";
const ALL_NODES_MAC = "333300000001";

/**
 * Announces every address that the interfaces of a namespace have now: for the first time before this returns, then several times within
 * the next second, for which it neither keeps the process alive nor needs the namespace open. Throws KERNEL.
 */
export async function announce(namespace: NetworkNamespace): Promise<void> {
  await using sender = new PacketSender(namespace);
  const frames = interfacesOf(namespace).flatMap(({ index, isUp, mac, addresses }) => {
    if (!isUp || mac === undefined) return [];
    return addresses.flatMap((address) => announcementsOf(mac, address)).map((frame) => ({ index, frame }));
  });
  for (const pauseMs of PAUSES_MS) {
    if (pauseMs > 0) await delay(pauseMs, undefined, { ref: false });
    for (const { index, frame } of frames) sender.send(index, frame);
  }
}

/** The frames that announce an address, IPv4 or IPv6, of the interface with this Ethernet address. Pure. */
export function announcementsOf(mac: Uint8Array, address: Uint8Array): Uint8Array[] {
  if (address.length !== 4) return [neighbourAdvertisement(mac, address)];
  return [arpAnnouncement(ARP_REQUEST, mac, address), arpAnnouncement(ARP_REPLY, mac, address)];
}

/** Gratuitous ARP (RFC 5227 3): in both forms, because there are devices that heed only one of them. */
function arpAnnouncement(operation: number, mac: Uint8Array, address: Uint8Array): Uint8Array {
  const [ethernet, ipv4, sizes] = ["0001", "0800", "0604"];
  const targetMac = operation === ARP_REQUEST ? "000000000000" : mac;
  return ethernetFrame(BROADCAST, mac, ETHERTYPE.ARP, ethernet, ipv4, sizes, u16(operation), mac, address, targetMac, address);
}

/** Unsolicited neighbour advertisement (RFC 4861 7.2.6), which overrides what its receivers know. */
function neighbourAdvertisement(mac: Uint8Array, address: Uint8Array): Uint8Array {
  const [type, override, targetLinkAddress] = ["8800", "20000000", "0201"];
  const rest = joined(override, address, targetLinkAddress, mac);
  const addresses = joined(address, ALL_NODES);
  const bytes = 4 + rest.length;
  const checksum = checksumFor(onesSum(joined(type, rest), pseudoHeaderSum(addresses, PROTOCOL.ICMPV6, bytes)));
  const [versionAndFlow, hopLimit] = ["60000000", "ff"];
  const ipHeader = [versionAndFlow, u16(bytes), Uint8Array.of(PROTOCOL.ICMPV6), hopLimit, addresses];
  return ethernetFrame(ALL_NODES_MAC, mac, ETHERTYPE.IPV6, ...ipHeader, type, u16(checksum), rest);
}

function ethernetFrame(
  destination: string,
  source: Uint8Array,
  protocol: number,
  ...payload: readonly (Uint8Array | string)[]
): Uint8Array {
  return joined(destination, source, u16(protocol), ...payload);
}

/** Bytes and hexadecimal constants, one behind the other. */
function joined(...parts: readonly (Uint8Array | string)[]): Uint8Array {
  return Buffer.concat(parts.map((part) => (typeof part === "string" ? Buffer.from(part, "hex") : part)));
}

function u16(value: number): Uint8Array {
  return Uint8Array.of(value >> 8, value & 0xff);
}
