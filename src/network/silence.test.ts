/** A silent network shows nothing to a neighbour, whatever its kernel, or dockerd, would say. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";
import { failedWith } from "../kernel/libc.ts";
import { ETHERTYPE, type Frame, PacketSender, type PacketTap } from "../kernel/packet.ts";
import { announcementsOf } from "./announce.ts";
import { bytesOf, type Host, ipv4Of, ipv6Of, isFrom, macOf, Segment, until } from "./segment.fixture.ts";
import { SilentNetwork } from "./silence.ts";

const [NEIGHBOUR, TARGET, PARENT] = [1, 2, 3];
/** What dockerd sends through a packet socket when it has set an interface up: gratuitous ARP. */
const ANNOUNCEMENT = announcementsOf(bytesOf(macOf(TARGET)), Uint8Array.of(10, 73, 0, TARGET))[0] ?? new Uint8Array();
/** Of nobody here. */
const STRANGE_FRAME = bytesOf(`ffffffffffff ${macOf(99)} 88b5`);

void describe("a silent network", { timeout: 60_000 }, () => {
  let segment: Segment;
  let target: Host;
  let heard: PacketTap;
  beforeEach(() => {
    segment = new Segment();
    heard = segment.hostWithAddress("neighbour", NEIGHBOUR).tap();
    target = segment.host("target");
    // Everything that a kernel may say of itself when it gets an interface and addresses, and soon.
    target.sysctl("ipv4/conf/default/arp_notify", 1);
    target.sysctl("ipv6/conf/default/ndisc_notify", 1);
    target.sysctl("ipv6/conf/default/router_solicitation_delay", 0);
  });
  afterEach(async () => {
    await heard[Symbol.asyncDispose]();
    segment[Symbol.dispose]();
  });

  const addInterface = {
    veth() {
      segment.plugIn(target, "target", TARGET);
    },
    macvlan() {
      const parent = segment.host("parent");
      segment.plugIn(parent, "parent", PARENT);
      parent.ip("link", "set", "eth0", "up");
      parent.ip("link", "add", "link", "eth0", "name", "mv0", "address", macOf(TARGET), "type", "macvlan", "mode", "bridge");
      parent.ip("link", "set", "mv0", "netns", target.name, "name", "eth0");
    },
  };

  for (const kind of ["veth", "macvlan"] as const) {
    void it(`shows nothing of a ${kind} that comes in, gets addresses and goes up, until it is lifted`, async () => {
      await using silence = new SilentNetwork(target.namespace);
      await using sender = new PacketSender(target.namespace);
      addInterface[kind]();
      await goUp(target);
      await until(() => isDropped(sender, target, STRANGE_FRAME)); // has noticed the interface
      assert.ok(isDropped(sender, target, ANNOUNCEMENT));

      silence.lift();
      sender.send(target.eth0(), ANNOUNCEMENT);
      const frames: Frame[] = [];
      await until(() => frames.push(...heard.receive().filter(isFrom(TARGET))) > 0);
      assert.deepEqual(Buffer.from(frames[0]?.bytes ?? []), ANNOUNCEMENT); // frames don't overtake each other: nothing was before it
    });

    void it(`would show much of a ${kind} otherwise`, async () => {
      addInterface[kind]();
      await goUp(target);
      const protocols = new Set<number>();
      await until(() => {
        for (const { bytes } of heard.receive().filter(isFrom(TARGET))) protocols.add(Buffer.from(bytes).readUInt16BE(12));
        return protocols.has(ETHERTYPE.ARP) && protocols.has(ETHERTYPE.IPV6);
      });
    });
  }

  void it("stays when it is disposed of without being lifted", async () => {
    addInterface.veth();
    await using sender = new PacketSender(target.namespace);
    await new SilentNetwork(target.namespace)[Symbol.asyncDispose]();
    await goUp(target);
    assert.ok(isDropped(sender, target, ANNOUNCEMENT));
  });

  void it("heeds an interface that gets another name", async () => {
    addInterface.veth();
    target.ip("link", "set", "eth0", "name", "veth0");
    await using silence = new SilentNetwork(target.namespace);
    target.ip("link", "set", "veth0", "name", "eth0");
    await goUp(target);
    await using sender = new PacketSender(target.namespace);
    await until(() => isDropped(sender, target, STRANGE_FRAME));
    silence.lift();
    assert.ok(!isDropped(sender, target, STRANGE_FRAME));
  });
});

/** Whether a frame that is given to eth0 goes nowhere. */
function isDropped(sender: PacketSender, host: Host, frame: Uint8Array): boolean {
  try {
    sender.send(host.eth0(), frame);
    return false;
  } catch (error) {
    return failedWith("ENOBUFS", error); // what packet(7) makes of a drop on the way out
  }
}

/** Gives eth0 addresses, sets it up and returns when IPv6 has tried them all out (RFC 4862 5.4). */
async function goUp(host: Host): Promise<void> {
  host.sysctl("ipv6/neigh/eth0/retrans_time_ms", 20);
  host.ip("address", "add", `${ipv4Of(TARGET)}/24`, "dev", "eth0");
  host.ip("address", "add", `${ipv6Of(TARGET)}/64`, "dev", "eth0");
  host.ip("link", "set", "eth0", "up");
  await until(() => {
    const addresses = host.ip("-6", "-oneline", "address", "show", "dev", "eth0").split("\n").slice(0, -1);
    return addresses.length === 2 && addresses.every((line) => !line.includes("tentative"));
  });
  host.ip("link", "set", "eth0", "address", macOf(TARGET)); // the kernel's occasion to notify neighbours by ARP (arp_notify)
}
