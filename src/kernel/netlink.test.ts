/** Netlink: lists, requests, errors and multicast. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { describe, it } from "node:test";
import { failedWith, readable } from "./libc.ts";
import { attribute, attributesOf, NETLINK, NetlinkSocket, request } from "./netlink.ts";
import { NetworkNamespace } from "./netns.ts";

const [RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK] = [16, 17, 18];
const RTMGRP_LINK = 1;
const IFLA_IFNAME = 3;
const IFINFOMSG_BYTES = 16;

void describe("netlink", { timeout: 60_000 }, () => {
  void it("lists what the namespace has", () => {
    using namespace = NetworkNamespace.create();
    namespace.run(() => execFileSync("ip", ["link", "add", "near", "type", "veth", "peer", "name", "far"]));
    using netlink = namespace.run(() => new NetlinkSocket(NETLINK.ROUTE));
    const links = netlink.dump(RTM_GETLINK, Buffer.alloc(IFINFOMSG_BYTES)).map((entry) => attributesOf(entry.subarray(IFINFOMSG_BYTES)));
    assert.deepEqual(new Set(links.map((link) => link.get(IFLA_IFNAME)?.toString())), new Set(["lo\0", "near\0", "far\0"]));
  });

  void it("has requests carried out, and names the error of one that can't be", () => {
    using namespace = NetworkNamespace.create();
    using netlink = namespace.run(() => new NetlinkSocket(NETLINK.ROUTE));
    const remove = (): void => netlink.transact([request(RTM_DELLINK, 0, Buffer.alloc(IFINFOMSG_BYTES), attribute(IFLA_IFNAME, "near"))]);
    assert.throws(remove, (error) => failedWith("ENODEV", error));
    namespace.run(() => execFileSync("ip", ["link", "add", "near", "type", "veth"]));
    remove();
    assert.throws(remove, (error) => failedWith("ENODEV", error));
  });

  void it("hears of changes", async () => {
    using namespace = NetworkNamespace.create();
    using netlink = namespace.run(() => new NetlinkSocket(NETLINK.ROUTE, RTMGRP_LINK));
    assert.deepEqual(netlink.receive(), []);
    namespace.run(() => execFileSync("ip", ["link", "add", "near", "type", "veth"]));
    assert.ok(await readable(netlink.fd, new AbortController().signal));
    assert.ok(netlink.receive().some((message) => message.readUInt16LE(4) === RTM_NEWLINK));
  });
});
