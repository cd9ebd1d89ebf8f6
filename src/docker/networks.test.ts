/**
 * When a network or volume of the same name is the same.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { NetworkDescription, VolumeDescription } from "./description.ts";
import { networkDifferences } from "./networks.ts";
import { volumeDifferences } from "./volumes.ts";

const NETWORK: NetworkDescription = {
  name: "net",
  driver: "macvlan",
  enableIPv4: true,
  enableIPv6: false,
  internal: false,
  attachable: false,
  ipam: { driver: "default", options: {}, subnets: [{ Subnet: "10.0.0.0/24", Gateway: "10.0.0.1", IPRange: "10.0.0.0/25" }] },
  options: { parent: "eth0", mtu: "1400" },
  labels: { from: "compose" },
};

test("hosts may differ in interfaces, ranges and labels", () => {
  const elsewhere = {
    ...NETWORK,
    attachable: true,
    ipam: { ...NETWORK.ipam, subnets: [{ Subnet: "10.0.0.0/24", IPRange: "10.0.0.128/25" }] },
    options: { parent: "enp3s0", mtu: "1400", "com.docker.network.enable_ipv4": "true" },
    labels: {},
  };
  assert.deepEqual(networkDifferences(NETWORK, elsewhere), []);
});

for (const [change, difference] of [
  [{ driver: "bridge" }, "driver is bridge instead of macvlan"],
  [{ enableIPv6: true }, "IPv6 is true instead of false"],
  [{ internal: true }, "internal is true instead of false"],
  [{ ipam: { ...NETWORK.ipam, driver: "x" } }, "address management is x instead of default"],
  [{ ipam: { ...NETWORK.ipam, subnets: [] } }, "subnets is not set instead of 10.0.0.0/24"],
  [
    { ipam: { ...NETWORK.ipam, subnets: [{ Subnet: "10.0.0.0/24", Gateway: "10.0.0.9" }] } },
    "gateway of 10.0.0.0/24 is 10.0.0.9 instead of 10.0.0.1",
  ],
  [{ options: { parent: "eth0" } }, "option mtu is not set instead of 1400"],
  [{ options: { ...NETWORK.options, macvlan_mode: "vepa" } }, "option macvlan_mode is vepa instead of not set"],
] as const) {
  test(`two networks differ if ${difference}`, () => {
    assert.deepEqual(networkDifferences(NETWORK, { ...NETWORK, ...change } as NetworkDescription), [difference]);
  });
}

test("volumes differ in driver and options", () => {
  const wanted: VolumeDescription = {
    name: "v",
    driver: "local",
    options: { type: "nfs" },
    labels: { a: "b" },
    anonymous: false,
    destination: "/v",
  };
  assert.deepEqual(volumeDifferences(wanted, { Driver: "local", Options: { type: "nfs" } }), []);
  assert.deepEqual(volumeDifferences(wanted, { Driver: "ceph", Options: null }), [
    "driver is ceph instead of local",
    "option type is not set instead of nfs",
  ]);
});
