/** Parameters are set in the namespace they are meant for, and nowhere else. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { setSysctls, trustNewAddresses } from "./sysctl.ts";
import { Segment } from "./segment.fixture.ts";

const somaxconn = (): string => readFileSync("/proc/sys/net/core/somaxconn", "utf8").trim();

void describe("kernel parameters", { timeout: 60_000 }, () => {
  void it("are set in the namespace alone, by either spelling", () => {
    using segment = new Segment();
    const { namespace } = segment.host("host");
    const before = somaxconn();
    setSysctls(namespace, { "net.core.somaxconn": "77", "net/ipv4/ip_unprivileged_port_start": "70" });
    assert.equal(namespace.run(somaxconn), "77");
    assert.equal(
      namespace.run(() => readFileSync("/proc/sys/net/ipv4/ip_unprivileged_port_start", "utf8")),
      "70\n",
    );
    assert.equal(somaxconn(), before);
  });

  void it("that do not exist, or can't be so, are told; others are refused", () => {
    using segment = new Segment();
    const { namespace } = segment.host("host");
    assert.throws(() => setSysctls(namespace, { "net.core.nothing": "1" }), { code: "NETWORK", message: /net\.core\.nothing.*"1"/ });
    assert.throws(() => setSysctls(namespace, { "net.core.somaxconn": "many" }), { code: "NETWORK", message: /"many"/ });
    for (const name of ["kernel.msgmax", "net/../kernel/msgmax"])
      assert.throws(() => setSysctls(namespace, { [name]: "1" }), { code: "NETWORK" });
  });

  void it("make IPv6 addresses usable at once, as long as they are trusted", () => {
    using segment = new Segment();
    const host = segment.host("host");
    const tentative = (): boolean => host.ip("-6", "address", "show", "dev", "eth0").includes("tentative");
    {
      using _trust = trustNewAddresses(host.namespace);
      segment.plugIn(host, "port", 1);
      host.ip("link", "set", "eth0", "up");
      host.ip("address", "add", "fd73::1/64", "dev", "eth0");
      assert.equal(tentative(), false);
    }
    assert.equal(
      host.namespace.run(() => readFileSync("/proc/sys/net/ipv6/conf/default/accept_dad", "utf8")),
      "1\n",
    );
    host.ip("address", "add", "fd73::2/64", "dev", "eth0");
    assert.equal(tentative(), true);
  });
});
