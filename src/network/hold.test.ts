/** What clients send is held, not lost, and not answered: two hosts on a segment, real TCP. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { afterEach, beforeEach, describe, it } from "node:test";
import { ETHERTYPE, type Frame, PacketSender } from "../kernel/packet.ts";
import { connect, Received } from "./connection.fixture.ts";
import { HeldNetwork } from "./hold.ts";
import { inject } from "./inject.ts";
import { PROTOCOL, viewOf } from "./ip.ts";
import { ipv4, ipv6, udp } from "./packet.fixture.ts";
import { Quarantine } from "./quarantine.ts";
import { bytesOf, type Host, ipv4Of, ipv6Of, isFrom, macOf, Segment, until } from "./segment.fixture.ts";

const [CLIENT, SERVER] = [1, 2];

for (const kind of ["veth", "macvlan"] as const)
  void describe(`a held network with a ${kind}`, { timeout: 60_000 }, () => {
    let segment: Segment;
    let client: Host;
    let server: Host;
    beforeEach(() => {
      segment = new Segment();
      client = segment.hostWithAddress("client", CLIENT);
      server = segment.hostWithAddress("server", SERVER, kind);
      // The client would not retransmit within the test: what arrives at all has arrived at once.
      for (const address of [`${ipv4Of(SERVER)}/32`, `${ipv6Of(SERVER)}/128`]) {
        client.ip("route", "add", address, "dev", "eth0", "rto_min", "100s");
      }
    });
    afterEach(() => segment[Symbol.dispose]());

    for (const address of [ipv4Of(SERVER), ipv6Of(SERVER)]) {
      void it(`keeps data for ${address} from the kernel, and delivers it without a retransmission`, async () => {
        await using connection = await connect(client, server, address);
        const received = new Received(connection.server);
        connection.client.input.write("before, ");
        await until(() => received.text === "before, " && client.unacknowledgedBytes() === 0);
        await using held = new HeldNetwork(server.namespace);
        await using witness = server.tap();

        held.lock();
        const segmentCount = server.counter("snmp", "Tcp", "InSegs");
        connection.client.input.write("while held");
        await until(() => witness.receive().some(({ bytes }) => Buffer.from(bytes).includes("while held")));
        assert.equal(client.unacknowledgedBytes(), "while held".length);
        assert.equal(server.counter("snmp", "Tcp", "InSegs"), segmentCount);

        assert.deepEqual(held.release(), { deliveredCount: 1, refusedCount: 0 });
        await until(() => received.text === "before, while held" && client.unacknowledgedBytes() === 0);
        assert.equal(server.counter("snmp", "Tcp", "InSegs"), segmentCount + 1);
        assert.equal(client.counter("snmp", "Tcp", "RetransSegs"), 0);
        assert.equal(held.lostCount(), 0);
      });
    }

    void it("turns segments that stand for many, with checksums left to hardware, into packets that any network carries", async () => {
      await using connection = await connect(client, server, ipv4Of(SERVER));
      const received = new Received(connection.server);
      const bytes = randomBytes(8 * 1024 * 1024);
      connection.client.input.write(bytes);
      await until(() => received.byteCount === bytes.length); // the window is wide open now
      await using held = new HeldNetwork(server.namespace);
      await using witness = server.tap();

      held.lock();
      const frames: Frame[] = [];
      connection.client.input.write(bytes);
      await until(() => frames.push(...witness.receive()) > 3);
      assert.ok(frames.some(({ offload }) => offload.segmentBytes !== undefined && offload.checksum !== undefined));
      const packets = held.drain();
      assert.ok(packets.every(({ length }) => length <= 1500));

      using quarantine = new Quarantine(server.namespace);
      quarantine.lift();
      assert.deepEqual(inject(server.namespace, packets), { deliveredCount: packets.length, refusedCount: 0 });
      assert.equal(inject(server.namespace, held.drain()).refusedCount, 0);
      await until(() => received.byteCount === 2 * bytes.length);
      assert.ok(received.bytes.subarray(bytes.length).equals(bytes));
      assert.equal(server.counter("snmp", "Tcp", "InErrs"), 0);
      assert.equal(client.counter("netstat", "TcpExt", "TCPTimeouts"), 0);
    });

    void it("lets nothing out, not even what the server's kernel sends by itself", async () => {
      await using connection = await connect(client, server, ipv4Of(SERVER));
      const received = new Received(connection.client.output);
      await using heard = client.tap();
      await using held = new HeldNetwork(server.namespace);

      held.lock();
      heard.receive();
      connection.server.write("from the server");
      await until(() => server.unacknowledgedBytes() > 0);
      assert.deepEqual(heard.receive().filter(isFrom(SERVER)), []);
      assert.equal(received.text, "");

      held.release();
      await until(() => received.text === "from the server");
    });

    void it("answers no ARP, and again once released", async () => {
      await using asked = server.tap();
      await using heard = client.tap();
      await using sender = new PacketSender(client.namespace);
      await using held = new HeldNetwork(server.namespace);
      const ask = async (): Promise<void> => {
        sender.send(client.eth0(), whoHas(SERVER));
        await until(() => asked.receive().some(isFrom(CLIENT)));
      };

      held.lock();
      await ask();
      held.release();
      await ask();
      const answers: Frame[] = [];
      await until(() => answers.push(...heard.receive().filter((frame) => isFrom(SERVER)(frame) && isArpReply(frame))) > 0);
      assert.equal(answers.length, 1); // frames don't overtake each other: this is the second question's
    });

    void it("holds what is for the container's sockets, not what concerns the link", async () => {
      await using sender = new PacketSender(client.namespace);
      await using held = new HeldNetwork(server.namespace);
      const [solicitation, echoRequest] = [135, 128].map((type) => {
        const packet = udp(ipv6(CLIENT), ipv6(SERVER), "");
        packet[6] = PROTOCOL.ICMPV6;
        packet[40] = type;
        return packet;
      });
      assert.ok(solicitation && echoRequest);
      const datagram = udp(ipv4(CLIENT), ipv4(SERVER), "for the container");
      const [toServer, toAll] = [macOf(SERVER), "ffffffffffff"].map((mac) => bytesOf(`${mac} ${macOf(CLIENT)}`));
      assert.ok(toServer && toAll);

      held.lock();
      for (const frame of [
        [toAll, bytesOf("0800"), datagram],
        [toServer, bytesOf("88b5"), datagram],
        [toServer, bytesOf("86dd"), solicitation],
        [toServer, bytesOf("86dd"), echoRequest],
        [toServer, bytesOf("0800"), datagram],
      ]) {
        sender.send(client.eth0(), Buffer.concat(frame));
      }
      const packets: Uint8Array[] = [];
      await until(() => packets.push(...held.drain()) >= 2);
      assert.deepEqual(
        packets.map((packet) => Buffer.from(packet)),
        [echoRequest, datagram],
      );
    });

    void it("gives back on release what had been drained for a target that then failed", async () => {
      await using connection = await connect(client, server, ipv4Of(SERVER));
      const received = new Received(connection.server);
      await using held = new HeldNetwork(server.namespace);

      held.lock();
      connection.client.input.write("drained");
      const packets: Uint8Array[] = [];
      await until(() => packets.push(...held.drain()) > 0);
      held.release();
      await until(() => received.text === "drained");
      assert.equal(client.counter("snmp", "Tcp", "RetransSegs"), 0);
    });

    void it("forwards stragglers as they arrive", async () => {
      await using connection = await connect(client, server, ipv4Of(SERVER));
      await using held = new HeldNetwork(server.namespace);
      const end = new AbortController();

      held.lock();
      const batches: Uint8Array[][] = [];
      const forwarding = (async () => {
        for await (const packets of held.stragglers(end.signal)) {
          batches.push(packets);
          end.abort();
        }
      })();
      connection.client.input.write("late");
      await forwarding;
      assert.deepEqual(
        batches.map((packets) => packets.length),
        [1],
      );
      assert.ok(Buffer.from(batches[0]?.[0] ?? []).includes("late"));
    });

    void it("leaves the quarantine when it is disposed of, for a later agent to lift", async () => {
      await using connection = await connect(client, server, ipv4Of(SERVER));
      const received = new Received(connection.client.output);
      {
        await using held = new HeldNetwork(server.namespace);
        held.lock();
      }
      connection.server.write("from the server");
      await until(() => server.unacknowledgedBytes() > 0);
      assert.equal(received.text, "");

      await using later = new HeldNetwork(server.namespace);
      later.release();
      await until(() => received.text === "from the server");
    });
  });

function isArpReply({ bytes }: Frame): boolean {
  const view = viewOf(bytes);
  return view.getUint16(12) === ETHERTYPE.ARP && view.getUint16(20) === 2;
}

function whoHas(number: number): Uint8Array {
  const question = `ffffffffffff ${macOf(CLIENT)} 0806 0001 0800 0604 0001`;
  return bytesOf(`${question} ${macOf(CLIENT)} 0a490001 000000000000 0a49000${number}`);
}
