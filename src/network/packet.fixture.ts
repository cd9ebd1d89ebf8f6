/**
 * UDP packets, for the tests of this folder.
 */
import { checksumFor, onesSum, pseudoHeaderSum } from "./checksum.ts";
import { PROTOCOL, viewOf } from "./ip.ts";
import { bytesOf } from "./segment.fixture.ts";

/** The port packets are for. */
export const PORT = 7000;

/** The address of the host with a number. */
export function ipv4(number: number): Uint8Array {
  return Uint8Array.of(10, 73, 0, number);
}

/** The address of the host with a number. */
export function ipv6(number: number): Uint8Array {
  return Uint8Array.of(0xfd, 0x73, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number);
}

/** A UDP packet between two addresses of the same family. */
export function udp(source: Uint8Array, destination: Uint8Array, text: string): Buffer {
  const addresses = Buffer.concat([source, destination]);
  const datagram = Buffer.concat([Buffer.alloc(8), Buffer.from(text)]);
  const header = viewOf(datagram);
  header.setUint16(2, PORT);
  header.setUint16(4, datagram.length);
  header.setUint16(6, checksumFor(onesSum(datagram, pseudoHeaderSum(addresses, PROTOCOL.UDP, datagram.length))));
  return Buffer.concat([source.length === 4 ? ipv4Header(addresses, datagram.length) : ipv6Header(addresses, datagram.length), datagram]);
}

function ipv4Header(addresses: Uint8Array, payloadBytes: number): Uint8Array {
  const header = Buffer.concat([bytesOf("4500 0000 0000 0000 4011 0000"), addresses]);
  header.writeUInt16BE(20 + payloadBytes, 2);
  header.writeUInt16BE(checksumFor(onesSum(header)), 10);
  return header;
}

function ipv6Header(addresses: Uint8Array, payloadBytes: number): Uint8Array {
  const header = Buffer.concat([bytesOf("60000000 0000 1140"), addresses]);
  header.writeUInt16BE(payloadBytes, 4);
  return header;
}
