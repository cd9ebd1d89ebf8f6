/**
 * From a captured frame to the IP packets that would have crossed a wire: what is otherwise left to hardware is done here. Pure.
 *
 * Between virtual interfaces nobody computes checksums, and one frame of up to 64 KiB stands for many TCP segments. Elsewhere
 * it would be dropped as corrupt. A checksum that is there stays as it is: it may tell that a packet really is.
 */
import { ETHERTYPE, type Frame } from "../kernel/packet.ts";
import { checksumFor, onesSum, pseudoHeaderSum } from "./checksum.ts";
import { type IpHeader, ipHeaderOf, PROTOCOL, viewOf } from "./ip.ts";

const ETHERNET_HEADER_BYTES = 14;
const ETHERNET_PROTOCOL = 12;
const [IPV4_LENGTH, IPV4_ID, IPV4_CHECKSUM, IPV6_LENGTH] = [2, 4, 10, 4];
const [TCP_SEQUENCE, TCP_DATA_OFFSET, TCP_FLAGS, TCP_CHECKSUM] = [4, 12, 13, 16];
const [TCP_FIN, TCP_PSH, TCP_CWR] = [0x01, 0x08, 0x80];
const [UDP_LENGTH, UDP_CHECKSUM] = [4, 6];

/** The packets that `frame` stands for, in memory of their own; none if it carries no whole IP packet. */
export function packetsOf(frame: Frame): Uint8Array[] {
  const bytes = frame.bytes.subarray(ETHERNET_HEADER_BYTES);
  const header = isIp(frame) ? ipHeaderOf(bytes) : undefined;
  if (header === undefined) return [];
  const packet = new Uint8Array(bytes.subarray(0, header.totalBytes)); // short frames are padded
  const { checksum, segmentBytes } = frame.offload;
  if (segmentBytes !== undefined) return segmentsOf(packet, header, segmentBytes);
  if (checksum !== undefined) completeChecksum(packet, checksum.start - ETHERNET_HEADER_BYTES, checksum.at - ETHERNET_HEADER_BYTES);
  return [packet];
}

function isIp({ bytes }: Frame): boolean {
  if (bytes.length < ETHERNET_HEADER_BYTES) return false;
  const protocol = viewOf(bytes).getUint16(ETHERNET_PROTOCOL);
  return protocol === ETHERTYPE.IPV4 || protocol === ETHERTYPE.IPV6;
}

/** Replaces the sum of the pseudo header, which lies at `at`, by the checksum of all from `start` on. */
function completeChecksum(packet: Uint8Array, start: number, at: number): void {
  if (start < 0 || at < start || at + 2 > packet.length) return;
  const checksum = checksumFor(onesSum(packet.subarray(start)));
  viewOf(packet).setUint16(at, checksum || 0xffff); // in UDP 0 would mean none, and all ones is the same number
}

/** Cuts a TCP or UDP packet into ones with `segmentBytes` of payload each, as the kernel does it (tcp_gso_segment, __udp_gso_segment). */
function segmentsOf(packet: Uint8Array, header: IpHeader, segmentBytes: number): Uint8Array[] {
  const payloadStart = payloadStartOf(packet, header);
  if (payloadStart === undefined || segmentBytes === 0) return [];
  const segments: Uint8Array[] = [];
  for (let at = payloadStart; at < packet.length; at += segmentBytes) {
    const segment = Buffer.concat([packet.subarray(0, payloadStart), packet.subarray(at, at + segmentBytes)]);
    const transport = segment.subarray(header.headerBytes);
    adaptIpHeader(segment, header, segments.length);
    if (header.protocol === PROTOCOL.TCP) adaptTcpHeader(transport, at - payloadStart, at + segmentBytes >= packet.length);
    else viewOf(transport).setUint16(UDP_LENGTH, transport.length);
    setTransportChecksum(transport, header);
    segments.push(segment);
  }
  return segments;
}

function payloadStartOf(packet: Uint8Array, header: IpHeader): number | undefined {
  const transport = viewOf(packet.subarray(header.headerBytes));
  if (header.protocol === PROTOCOL.UDP && transport.byteLength >= 8) return header.headerBytes + 8;
  if (header.protocol !== PROTOCOL.TCP || transport.byteLength < 20) return undefined;
  const headerBytes = (transport.getUint8(TCP_DATA_OFFSET) >> 4) * 4;
  return headerBytes < 20 || headerBytes > transport.byteLength ? undefined : header.headerBytes + headerBytes;
}

function adaptIpHeader(segment: Uint8Array, header: IpHeader, index: number): void {
  const view = viewOf(segment);
  if (header.version === 6) {
    view.setUint16(IPV6_LENGTH, segment.length - header.headerBytes);
    return;
  }
  view.setUint16(IPV4_LENGTH, segment.length);
  view.setUint16(IPV4_ID, view.getUint16(IPV4_ID) + index);
  view.setUint16(IPV4_CHECKSUM, 0);
  view.setUint16(IPV4_CHECKSUM, checksumFor(onesSum(segment.subarray(0, header.headerBytes))));
}

/** FIN and PSH are said with the last byte, CWR with the first (RFC 3168 6.1.2: once). */
function adaptTcpHeader(tcp: Uint8Array, offset: number, isLast: boolean): void {
  const view = viewOf(tcp);
  view.setUint32(TCP_SEQUENCE, view.getUint32(TCP_SEQUENCE) + offset);
  const cleared = (isLast ? 0 : TCP_FIN | TCP_PSH) | (offset === 0 ? 0 : TCP_CWR);
  view.setUint8(TCP_FLAGS, view.getUint8(TCP_FLAGS) & ~cleared);
}

function setTransportChecksum(transport: Uint8Array, header: IpHeader): void {
  const view = viewOf(transport);
  const at = header.protocol === PROTOCOL.TCP ? TCP_CHECKSUM : UDP_CHECKSUM;
  view.setUint16(at, 0);
  const checksum = checksumFor(onesSum(transport, pseudoHeaderSum(header.addresses, header.protocol, transport.length)));
  view.setUint16(at, checksum || 0xffff);
}
