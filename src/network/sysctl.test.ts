/** Parameters are set in the namespace they are meant for, and nowhere else. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
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

  void it("make IPv6 addresses usable at once, as long as they are trusted", async () => {
    using segment = new Segment();
    const host = segment.host("host");
    const shown = (): string => host.ip("-6", "address", "show", "dev", "eth0");
    const tentative = (): boolean => shown().includes("tentative");
    const acceptDad = (): string => host.namespace.run(() => readFileSync("/proc/sys/net/ipv6/conf/default/accept_dad", "utf8"));
    {
      await using _trust = trustNewAddresses(host.namespace);
      segment.plugIn(host, "port", 1);
      host.ip("link", "set", "eth0", "up");
      host.ip("address", "add", "fd73::1/64", "dev", "eth0");
      assert.equal(tentative(), false);
    }
    assert.match(shown(), /inet6 fe80::/);
    assert.equal(tentative(), false, "the kernel's own address, too");
    assert.equal(acceptDad(), "1\n");
    host.ip("address", "add", "fd73::2/64", "dev", "eth0");
    assert.equal(tentative(), true);

    const trust = trustNewAddresses(host.namespace);
    host.ip("-6", "address", "flush", "dev", "eth0"); // as long as the kernel has not come to it
    const over = trust[Symbol.asyncDispose]();
    await sleep(50);
    assert.equal(acceptDad(), "0\n", "the kernel's own address is waited for");
    host.ip("address", "add", "fe80::1/64", "dev", "eth0");
    await over;
    assert.equal(acceptDad(), "1\n");
  });
});
