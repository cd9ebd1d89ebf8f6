/** Captured frames become packets that are complete in themselves. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { ETHERTYPE, type Offload } from "../kernel/packet.ts";
import { checksumFor, onesSum, pseudoHeaderSum } from "./checksum.ts";
import { type IpHeader, ipHeaderOf, PROTOCOL, viewOf } from "./ip.ts";
import { packetsOf } from "./offload.ts";

const ETHERNET_BYTES = 14;
const [FIN, PSH, ACK, CWR] = [0x01, 0x08, 0x10, 0x80];
const EVERY_FLAG = FIN | PSH | ACK | CWR;
const anyVersion = fc.constantFrom(4 as const, 6 as const);
const anyPayload = fc.uint8Array({ minLength: 1, maxLength: 3000 });

void describe("packets of a captured frame", () => {
  void it("are the one it carries, without padding, if nothing was left to hardware", () => {
    fc.assert(
      fc.property(anyVersion, anyPayload, fc.nat(50), (version, payload, paddingBytes) => {
        const packet = tcpPacket(version, payload, 7);
        assert.deepEqual(packetsOf(frameOf(Buffer.concat([packet, Buffer.alloc(paddingBytes)]), {})), [packet]);
      }),
    );
  });

  void it("get the checksum that is missing", () => {
    fc.assert(
      fc.property(anyVersion, anyPayload, (version, payload) => {
        const [packet] = packetsOf(withPartialChecksum(tcpPacket(version, payload, 7)));
        assert.ok(packet && isIntact(packet));
      }),
    );
  });

  void it("are segments that continue each other, each complete in itself", () => {
    fc.assert(
      fc.property(
        anyVersion,
        anyPayload,
        fc.integer({ min: 1, max: 1500 }),
        fc.nat(0xffffffff),
        (version, payload, segmentBytes, sequence) => {
          const segments = packetsOf(frameOf(tcpPacket(version, payload, sequence), { segmentBytes })).map(parsed);
          assert.deepEqual(Buffer.concat(segments.map((segment) => segment.payload)), Buffer.from(payload));
          assert.equal(segments.length, Math.ceil(payload.length / segmentBytes));
          for (const [index, segment] of segments.entries()) {
            const [isFirst, isLast] = [index === 0, index === segments.length - 1];
            assert.ok(segment.isIntact);
            assert.equal(segment.sequence, (sequence + index * segmentBytes) % 2 ** 32);
            assert.equal(segment.flags, ACK | (isLast ? FIN | PSH : 0) | (isFirst ? CWR : 0));
          }
          if (version === 4) assert.equal(new Set(segments.map(({ id }) => id)).size, segments.length);
        },
      ),
    );
  });

  void it("are datagrams if it stands for many of UDP", () => {
    fc.assert(
      fc.property(anyVersion, anyPayload, fc.integer({ min: 1, max: 1500 }), (version, payload, segmentBytes) => {
        const datagrams = packetsOf(frameOf(ipPacket(version, PROTOCOL.UDP, Buffer.concat([Buffer.alloc(8), payload])), { segmentBytes }));
        assert.ok(datagrams.every(isIntact));
        assert.deepEqual(
          Buffer.concat(datagrams.map((datagram) => datagram.subarray(headerOf(datagram).headerBytes + 8))),
          Buffer.from(payload),
        );
      }),
    );
  });

  void it("are none, or some, but no error, whatever the frame is", () => {
    const offload = fc.record(
      { checksum: fc.record({ start: fc.nat(0xffff), at: fc.nat(0x1ffff) }), segmentBytes: fc.nat(0xffff) },
      { requiredKeys: [] },
    );
    const anyFrame = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      fc.tuple(anyVersion, anyPayload).map(([version, payload]) => tcpPacket(version, payload, 0)),
    );
    fc.assert(
      fc.property(anyFrame, fc.nat(100), offload, (packet, cutBytes, lacks) => {
        for (const found of packetsOf(frameOf(packet.subarray(0, packet.length - cutBytes), lacks))) assert.ok(ipHeaderOf(found));
      }),
    );
  });
});

function frameOf(packet: Uint8Array, offload: Offload): { bytes: Uint8Array; toThisHost: boolean; offload: Offload } {
  const header = Buffer.alloc(ETHERNET_BYTES);
  header.writeUInt16BE((packet[0] ?? 0) >> 4 === 4 ? ETHERTYPE.IPV4 : ETHERTYPE.IPV6, 12);
  return { bytes: Buffer.concat([header, packet]), toThisHost: true, offload };
}

/** A TCP packet with every flag, 12 bytes of options and no checksum. */
function tcpPacket(version: 4 | 6, payload: Uint8Array, sequence: number): Uint8Array {
  const tcp = Buffer.concat([Buffer.alloc(32), payload]);
  tcp.writeUInt32BE(sequence, 4);
  tcp.writeUInt8(8 << 4, 12);
  tcp.writeUInt8(EVERY_FLAG, 13);
  return ipPacket(version, PROTOCOL.TCP, tcp);
}

function ipPacket(version: 4 | 6, protocol: number, payload: Uint8Array): Uint8Array {
  const header = Buffer.alloc(version === 4 ? 20 : 40, 1);
  header.writeUInt8(version === 4 ? 0x45 : 0x60, 0);
  header.writeUInt8(protocol, version === 4 ? 9 : 6);
  if (version === 4) {
    header.writeUInt16BE(20 + payload.length, 2);
    header.writeUInt16BE(0, 10);
    header.writeUInt16BE(checksumFor(onesSum(header)), 10);
  } else {
    header.writeUInt16BE(payload.length, 4);
  }
  return Uint8Array.from(Buffer.concat([header, payload]));
}

/** The frame of a TCP packet whose checksum is so far that of the pseudo header (CHECKSUM_PARTIAL in <linux/skbuff.h>). */
function withPartialChecksum(packet: Uint8Array): ReturnType<typeof frameOf> {
  const { headerBytes, addresses } = headerOf(packet);
  const at = headerBytes + 16;
  viewOf(packet).setUint16(at, pseudoHeaderSum(addresses, PROTOCOL.TCP, packet.length - headerBytes));
  return frameOf(packet, { checksum: { start: ETHERNET_BYTES + headerBytes, at: ETHERNET_BYTES + at } });
}

function headerOf(packet: Uint8Array): IpHeader {
  const header = ipHeaderOf(packet);
  assert.ok(header);
  return header;
}

/** Whether lengths and checksums are right. */
function isIntact(packet: Uint8Array): boolean {
  const { headerBytes, addresses, protocol, totalBytes, version } = headerOf(packet);
  const transport = packet.subarray(headerBytes);
  const isUdpLengthRight = protocol !== PROTOCOL.UDP || viewOf(transport).getUint16(4) === transport.length;
  const isHeaderRight = version === 6 || onesSum(packet.subarray(0, headerBytes)) === 0xffff;
  const sum = onesSum(transport, pseudoHeaderSum(addresses, protocol, transport.length));
  return totalBytes === packet.length && isUdpLengthRight && isHeaderRight && sum === 0xffff;
}

function parsed(packet: Uint8Array): { payload: Uint8Array; sequence: number; flags: number; id: number; isIntact: boolean } {
  const { headerBytes } = headerOf(packet);
  const tcp = viewOf(packet.subarray(headerBytes));
  return {
    payload: packet.subarray(headerBytes + 32),
    sequence: tcp.getUint32(4),
    flags: tcp.getUint8(13),
    id: viewOf(packet).getUint16(4),
    isIntact: isIntact(packet),
  };
}
