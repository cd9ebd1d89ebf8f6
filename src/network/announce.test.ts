/** Announcements move addresses in a switch and in neighbours' caches. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { describe, it } from "node:test";
import { PacketSender } from "../kernel/packet.ts";
import { announce, announcementsOf } from "./announce.ts";
import { checksumFor, onesSum, pseudoHeaderSum } from "./checksum.ts";
import { bytesOf, ipv4Of, ipv6Of, macOf, Segment, until } from "./segment.fixture.ts";

const [NEIGHBOUR, CONTAINER] = [1, 2];
const FORMER_MAC = macOf(3);

void describe("an announcement", { timeout: 60_000 }, () => {
  void it("tells a switch the new port of an Ethernet address", async () => {
    using segment = new Segment();
    const [source, target] = (["source", "target"] as const).map((role) => {
      const host = segment.host(role);
      segment.plugIn(host, role, CONTAINER);
      host.sysctl("ipv6/conf/eth0/disable_ipv6", 1); // so that it says nothing by itself
      host.ip("address", "add", `${ipv4Of(CONTAINER)}/24`, "dev", "eth0");
      host.ip("link", "set", "eth0", "up");
      return host;
    });
    assert.ok(source && target);
    await using sender = new PacketSender(source.namespace);
    sender.send(source.eth0(), bytesOf(`ffffffffffff ${macOf(CONTAINER)} 88b5`));
    await until(() => portOf(CONTAINER, segment) === "source");

    const announced = announce(target.namespace);
    await until(() => portOf(CONTAINER, segment) === "target");
    await announced;
  });

  for (const address of [ipv4Of(CONTAINER), ipv6Of(CONTAINER)]) {
    void it(`tells a neighbour the new Ethernet address of ${address}`, async () => {
      using segment = new Segment();
      const neighbour = segment.hostWithAddress("neighbour", NEIGHBOUR);
      const target = segment.hostWithAddress("target", CONTAINER);
      neighbour.ip("neighbour", "replace", address, "lladdr", FORMER_MAC, "nud", "reachable", "dev", "eth0");

      const announced = announce(target.namespace);
      await until(() => neighbour.ip("neighbour", "show", address).includes(macOf(CONTAINER)));
      await announced;
    });
  }

  void it("of IPv6 has a correct checksum", () => {
    const [frame = Buffer.alloc(0)] = announcementsOf(bytesOf(FORMER_MAC), bytesOf("fd730000 00000000 00000000 00000002"));
    const packet = frame.subarray(14);
    const message = packet.subarray(40);
    assert.equal(checksumFor(onesSum(message, pseudoHeaderSum(packet.subarray(8, 40), 58, message.length))), 0);
  });
});

/** The port behind which the switch believes the host with this number. */
function portOf(number: number, segment: Segment): string | undefined {
  const table = execFileSync("bridge", ["-n", segment.switch.name, "fdb", "show", "br", "br0"], { encoding: "utf8" });
  return new RegExp(`^${macOf(number)} dev (\\S+)`, "m").exec(table)?.[1];
}
