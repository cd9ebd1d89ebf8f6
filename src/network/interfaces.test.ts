/** Interfaces are listed as the kernel has them. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { interfacesOf, namesByAddress, renamedInterfaces } from "./interfaces.ts";
import { bytesOf, macOf, Segment } from "./segment.fixture.ts";

void describe("interfaces", { timeout: 60_000 }, () => {
  void it("are listed whatever their state, with all addresses", () => {
    using segment = new Segment();
    const host = segment.host("host");
    segment.plugIn(host, "port", 1);
    host.sysctl("ipv6/conf/eth0/addr_gen_mode", 1); // no link-local address
    const eth0 = { index: host.eth0(), name: "eth0", mac: bytesOf(macOf(1)) };
    const loopback = {
      index: 1,
      name: "lo",
      isUp: true,
      hasCarrier: true,
      mac: undefined,
      addresses: [bytesOf("7f000001"), bytesOf(`${"00".repeat(15)}01`)],
    };
    assert.deepEqual(interfacesOf(host.namespace), [loopback, { ...eth0, isUp: false, hasCarrier: false, addresses: [] }]);

    host.ip("link", "set", "eth0", "up");
    host.ip("address", "add", "10.73.0.1", "peer", "10.73.0.9", "dev", "eth0"); // the other end's is not its own
    host.ip("address", "add", "fd73::1/64", "dev", "eth0");
    const addresses = [bytesOf("0a490001"), bytesOf(`fd73${"00".repeat(13)}01`)];
    assert.deepEqual(interfacesOf(host.namespace), [loopback, { ...eth0, isUp: true, hasCarrier: true, addresses }]);
  });

  void it("that have another name elsewhere are told once each", () => {
    const named = (...names: string[]) =>
      namesByAddress(
        names.map((name, n) => ({
          index: n,
          name,
          isUp: true,
          hasCarrier: true,
          mac: undefined,
          addresses: [bytesOf(`0a49000${n}`), bytesOf(`0a49010${n}`)],
        })),
      );
    assert.deepEqual(renamedInterfaces(named("lo", "eth0"), named("lo", "eth0")), []);
    assert.deepEqual(
      renamedInterfaces(named("lo", "eth0", "eth1"), named("lo", "eth1", "eth0")).map((line) => line.split(" on ")[0]),
      ["Its interface eth0 is called eth1", "Its interface eth1 is called eth0"],
    );
    assert.deepEqual(renamedInterfaces(named("lo", "eth0"), named("lo")), []);
  });
});
