/** A quarantine is imposed and lifted as a whole. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { text } from "node:stream/consumers";
import { describe, it } from "node:test";
import { NetworkNamespace } from "../kernel/netns.ts";
import { PacketSender } from "../kernel/packet.ts";
import { probeNetwork } from "./probe.ts";
import { Quarantine } from "./quarantine.ts";
import { bytesOf, Segment } from "./segment.fixture.ts";

const [INTERNAL, EXTERNAL] = ["10.73.0.1", "10.73.0.2"];
/** Sends a datagram to an address, and receives it if that is its own. */
const SEND = `
  use Socket; my ($mark, $address) = @ARGV;
  socket(my $s, AF_INET, SOCK_DGRAM, 0); bind($s, sockaddr_in(5000, INADDR_ANY));
  setsockopt($s, SOL_SOCKET, 36, pack("I", $mark)) or die $!; # SO_MARK
  send($s, "x", 0, sockaddr_in(5000, inet_aton($address))) or print("not permitted: $!"), exit;
  print("sent"), exit if $address ne "10.73.0.1";
  recv($s, my $got, 10, 0); print "received $got";
`;

void describe("a quarantine", { timeout: 60_000 }, () => {
  void it("can be imposed and lifted any number of times, by different objects too", async () => {
    using segment = new Segment();
    const host = segment.hostWithAddress("host", 1);
    await using sender = new PacketSender(host.namespace);
    const send = (): void => sender.send(host.eth0(), bytesOf("ffffffffffff 020000007301 88b5"));
    using quarantine = new Quarantine(host.namespace);
    using another = new Quarantine(host.namespace);
    quarantine.lift();
    send();
    quarantine.impose();
    another.impose();
    assert.throws(send, { code: "KERNEL" });
    another.lift();
    quarantine.lift();
    send();
  });

  void it("lets through what carries CRIU's mark, within the namespace, and nothing else", async () => {
    using segment = new Segment();
    const host = segment.hostWithAddress("host", 1);
    host.ip("neighbour", "add", EXTERNAL, "lladdr", "02:00:00:00:73:02", "dev", "eth0");
    await using tap = segment.switch.tap();
    using quarantine = new Quarantine(host.namespace);
    quarantine.impose();
    tap.receive();
    for (const [address, mark, expected] of [
      [INTERNAL, 0xc114, "received"],
      [INTERNAL, 0, "not permitted"],
      [EXTERNAL, 0xc114, "sent"],
    ] as const) {
      const child = host.namespace.run(() => spawn("perl", ["-e", SEND, String(mark), address], { stdio: ["ignore", "pipe", "inherit"] }));
      assert.match(await text(child.stdout), new RegExp(expected), `${address} with mark ${mark}`);
    }
    assert.deepEqual(tap.receive(), [], "nothing leaves");
  });

  void it("copes with hundreds of interfaces", () => {
    using segment = new Segment();
    const host = segment.host("host");
    host.ipBatch(Array.from({ length: 100 }, (_, i) => `link add a${i} type veth peer name b${i}`));
    using quarantine = new Quarantine(host.namespace);
    quarantine.impose();
    quarantine.lift();
  });

  void it("can't be imposed on the namespace of this very process", () => {
    using own = NetworkNamespace.open("/proc/self/ns/net");
    assert.throws(() => new Quarantine(own), { code: "NETWORK" });
  });

  void it("is possible on this host, as the preflight finds out", async () => {
    await probeNetwork();
  });
});
