/** A silent network shows nothing to a neighbour, whatever its kernel, or dockerd, would say. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";
import { failedWith } from "../kernel/libc.ts";
import { ETHERTYPE, type Frame, PacketSender, type PacketTap } from "../kernel/packet.ts";
import { announcementsOf } from "./announce.ts";
import { ipv4, udp } from "./packet.fixture.ts";
import { bytesOf, type Host, ipv4Of, ipv6Of, isFrom, macOf, Segment, until } from "./segment.fixture.ts";
import { SilentNetwork } from "./silence.ts";

const [NEIGHBOUR, TARGET, NOBODY] = [1, 2, 99];
/** What dockerd sends through a packet socket when it has set an interface up. */
const ANNOUNCEMENT = announcementsOf(bytesOf(macOf(TARGET)), ipv4(TARGET))[0] ?? new Uint8Array();
const STRANGE_FRAME = bytesOf(`ffffffffffff ${macOf(NOBODY)} 88b5`);
const MARKER = bytesOf(`ffffffffffff ${macOf(TARGET)} 88b5`);
const FRAME_TO_TARGET = Buffer.concat([bytesOf(`${macOf(TARGET)} ${macOf(NEIGHBOUR)} 0800`), udp(ipv4(NEIGHBOUR), ipv4(TARGET), "hello")]);

void describe("a silent network", { timeout: 60_000 }, () => {
  let segment: Segment;
  let neighbour: Host;
  let target: Host;
  let heard: PacketTap;
  let sender: PacketSender;
  beforeEach(() => {
    segment = new Segment();
    neighbour = segment.hostWithAddress("neighbour", NEIGHBOUR);
    heard = neighbour.tap();
    target = segment.host("target");
    sender = new PacketSender(target.namespace);
    // Everything that a kernel may say of itself when it gets an interface and addresses, and soon.
    target.sysctl("ipv4/conf/default/arp_notify", 1);
    target.sysctl("ipv6/conf/default/ndisc_notify", 1);
    target.sysctl("ipv6/conf/default/router_solicitation_delay", 0);
  });
  afterEach(async () => {
    await sender[Symbol.asyncDispose]();
    await heard[Symbol.asyncDispose]();
    segment[Symbol.dispose]();
  });

  /** Whether a frame that is given to the target's eth0 goes nowhere. */
  function isDropped(frame: Uint8Array): boolean {
    try {
      sender.send(target.eth0(), frame);
      return false;
    } catch (error) {
      return failedWith("ENOBUFS", error); // what packet(7) makes of a drop on the way out
    }
  }

  /** Checks that what is heard first is sent after the end of the silence: frames don't overtake each other. */
  async function assertNothingWasSaid(silence: SilentNetwork): Promise<void> {
    target.sysctl("ipv6/conf/eth0/disable_ipv6", 1); // it would say something by itself now and then
    silence.lift();
    sender.send(target.eth0(), MARKER);
    const frames: Frame[] = [];
    await until(() => frames.push(...heard.receive().filter(isFrom(TARGET))) > 0);
    assert.deepEqual(Buffer.from(frames[0]?.bytes ?? []), MARKER);
  }

  for (const kind of ["veth", "macvlan"] as const) {
    void it(`neither says nor hears anything by a ${kind} that comes in, gets addresses and goes up`, async () => {
      await using silence = new SilentNetwork(target.namespace);
      segment.plugIn(target, "target", TARGET, kind);
      goUp(target);
      await using asking = new PacketSender(neighbour.namespace);
      asking.send(neighbour.eth0(), FRAME_TO_TARGET);
      untilAtOnce(() => target.counter("snmp", "Ip", "InReceives") > 0);
      assert.equal(target.counter("snmp", "Ip", "InDelivers"), 0);
      await assertNothingWasSaid(silence);
    });

    void it(`sends nothing that is given to a packet socket either, once it has noticed the ${kind}`, async () => {
      await using silence = new SilentNetwork(target.namespace);
      segment.plugIn(target, "target", TARGET, kind);
      target.ip("link", "set", "eth0", "up");
      await until(() => isDropped(STRANGE_FRAME));
      assert.ok(isDropped(ANNOUNCEMENT));
      await assertNothingWasSaid(silence);
    });

    void it(`would say much by a ${kind} otherwise`, async () => {
      segment.plugIn(target, "target", TARGET, kind);
      goUp(target);
      const protocols = new Set<number>();
      await until(() => {
        for (const { bytes } of heard.receive().filter(isFrom(TARGET))) protocols.add(Buffer.from(bytes).readUInt16BE(12));
        return protocols.has(ETHERTYPE.ARP) && protocols.has(ETHERTYPE.IPV6);
      });
    });
  }

  void it("heeds an interface that gets another name", async () => {
    segment.plugIn(target, "target", TARGET);
    target.ip("link", "set", "eth0", "name", "veth0");
    await using silence = new SilentNetwork(target.namespace);
    target.ip("link", "set", "veth0", "name", "eth0");
    target.ip("link", "set", "eth0", "up");
    await until(() => isDropped(STRANGE_FRAME));
    silence.lift();
    assert.ok(!isDropped(STRANGE_FRAME));
  });

  void it("stays when it is disposed of without being lifted", async () => {
    segment.plugIn(target, "target", TARGET);
    await new SilentNetwork(target.namespace)[Symbol.asyncDispose]();
    target.ip("link", "set", "eth0", "up");
    assert.ok(isDropped(ANNOUNCEMENT));
  });
});

/**
 * Gives eth0 addresses, sets it up, and returns when IPv6 has tried them out (RFC 4862 5.4) and the kernel had occasion to notify its
 * neighbours by ARP. All that without letting this process notice anything in between.
 */
function goUp(host: Host): void {
  host.sysctl("ipv6/neigh/eth0/retrans_time_ms", 20);
  host.ip("address", "add", `${ipv4Of(TARGET)}/24`, "dev", "eth0");
  host.ip("address", "add", `${ipv6Of(TARGET)}/64`, "dev", "eth0");
  host.ip("link", "set", "eth0", "up");
  untilAtOnce(() => {
    const addresses = host.ip("-6", "-oneline", "address", "show", "dev", "eth0").split("\n").slice(0, -1);
    return addresses.length === 2 && addresses.every((line) => !line.includes("tentative"));
  });
  host.ip("link", "set", "eth0", "address", macOf(TARGET));
}

/** Like `until`, but nothing else happens in this process meanwhile. */
function untilAtOnce(condition: () => boolean): void {
  const pause = new Int32Array(new SharedArrayBuffer(4));
  const limitMs = 30_000;
  for (const beganMs = performance.now(); !condition(); Atomics.wait(pause, 0, 0, 2)) {
    assert.ok(performance.now() < beganMs + limitMs, "waited in vain");
  }
}
