/** A quarantine is imposed and lifted as a whole. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { NetworkNamespace } from "../kernel/netns.ts";
import { PacketSender } from "../kernel/packet.ts";
import { probeNetwork } from "./probe.ts";
import { Quarantine } from "./quarantine.ts";
import { bytesOf, Segment } from "./segment.fixture.ts";

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
