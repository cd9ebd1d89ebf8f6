/** Injected packets reach sockets, and only packets that a network could have brought. */
import assert from "node:assert/strict";
import { createSocket, type Socket, type SocketOptions } from "node:dgram";
import { afterEach, beforeEach, describe, it } from "node:test";
import { inject } from "./inject.ts";
import { ipv4, ipv6, PORT, udp } from "./packet.fixture.ts";
import { Quarantine } from "./quarantine.ts";
import { bytesOf, type Host, Segment, until } from "./segment.fixture.ts";

const OWN = 2;
const [LOOPBACK4, LOOPBACK6] = [bytesOf("7f000001"), bytesOf(`${"00".repeat(15)}01`)];
const STRANGER = 99;

void describe("injection", { timeout: 60_000 }, () => {
  let segment: Segment;
  let host: Host;
  let sockets: Socket[];
  let received: string[];
  beforeEach(() => {
    [received, sockets] = [[], []];
    segment = new Segment();
    host = segment.hostWithAddress("host", OWN);
    for (const [type, any, family] of [
      ["udp4", "0.0.0.0", 4],
      ["udp6", "::", 6],
    ] as const) {
      // Resolves at once, so that the socket is made within the namespace.
      const lookup: SocketOptions["lookup"] = (_name, _options, found) => found(null, any, family);
      const socket = createSocket({ type, ipv6Only: type === "udp6", lookup });
      host.namespace.run(() => socket.bind(PORT));
      socket.setRecvBufferSize(4 * 1024 * 1024);
      sockets.push(socket.on("message", (message, { address }) => received.push(`${address} ${message.toString()}`)));
    }
  });
  afterEach(() => {
    for (const socket of sockets) socket.close();
    segment[Symbol.dispose]();
  });

  void it("delivers packets from sources the namespace has no route to", async () => {
    const packets = [udp(bytesOf("c0000201"), ipv4(OWN), "one"), udp(bytesOf(`20010db8${"00".repeat(12)}`), ipv6(OWN), "two")];
    assert.deepEqual(inject(host.namespace, packets), { deliveredCount: 2, refusedCount: 0 });
    await until(() => received.length === 2);
    assert.deepEqual(new Set(received), new Set(["192.0.2.1 one", "2001:db8:: two"]));
  });

  void it("delivers packets to a link-local address", async () => {
    host.ip("address", "add", "fe80::2/64", "dev", "eth0", "nodad");
    const address = bytesOf(`fe80${"00".repeat(13)}02`);
    assert.equal(inject(host.namespace, [udp(ipv6(STRANGER), address, "hello")]).deliveredCount, 1);
    await until(() => received.length === 1);
  });

  void it("delivers thousands of packets, all of them and in their order", async () => {
    const packets = Array.from({ length: 5000 }, (_, number) => udp(ipv4(STRANGER), ipv4(OWN), String(number)));
    assert.equal(inject(host.namespace, packets).deliveredCount, packets.length);
    await until(() => received.length === packets.length);
    assert.deepEqual(
      received,
      packets.map((_, number) => `10.73.0.99 ${number}`),
    );
  });

  const refused: Record<string, Uint8Array> = {
    nothing: new Uint8Array(),
    "a truncated packet": udp(ipv4(STRANGER), ipv4(OWN), "hello").subarray(0, -1),
    "a packet of another version": bytesOf("50").fill(0x50),
    "a packet for someone else": udp(ipv4(STRANGER), ipv4(3), "hello"),
    "a packet for a group": udp(ipv4(STRANGER), bytesOf("e0000001"), "hello"),
    "an IPv6 packet for someone else": udp(ipv6(STRANGER), ipv6(3), "hello"),
    "a packet for loopback": udp(ipv4(STRANGER), LOOPBACK4, "hello"),
    "an IPv6 packet for loopback": udp(ipv6(STRANGER), LOOPBACK6, "hello"),
    "a packet from loopback": udp(LOOPBACK4, ipv4(OWN), "hello"),
    "an IPv6 packet from loopback": udp(LOOPBACK6, ipv6(OWN), "hello"),
    "a packet from the namespace itself": udp(ipv4(OWN), ipv4(OWN), "hello"),
  };
  for (const [name, packet] of Object.entries(refused)) {
    void it(`refuses ${name}, and goes on`, async () => {
      const good = udp(ipv4(STRANGER), ipv4(OWN), "good");
      assert.deepEqual(inject(host.namespace, [packet, good]), { deliveredCount: 1, refusedCount: 1 });
      await until(() => received.length > 0);
      assert.deepEqual(received, ["10.73.0.99 good"]);
    });
  }

  void it("is refused by a quarantine", () => {
    using quarantine = new Quarantine(host.namespace);
    quarantine.impose();
    assert.equal(inject(host.namespace, [udp(ipv4(STRANGER), ipv4(OWN), "hello")]).refusedCount, 1);
  });
});
