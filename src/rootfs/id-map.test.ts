/** Owners in the container's terms and back. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { toContainer, toHost, type IdMap } from "./id-map.ts";
import type { Inode, Xattr } from "./inode.ts";

const remapped: IdMap = {
  uids: [
    { container: 0, host: 100_000, count: 1000 },
    { container: 1000, host: 500_000, count: 64_536 },
  ],
  gids: [{ container: 0, host: 200_000, count: 65_536 }],
};

const inode = (uid: number, gid: number, xattrs: readonly Xattr[] = []): Inode => ({
  kind: { type: "fifo" },
  permissions: 0o600,
  uid,
  gid,
  mtimeNs: 0n,
  xattrs,
});
const hex = (name: string, value: string): Xattr => ({ name, value: Buffer.from(value, "hex") });
const values = (of: Inode): string[] => of.xattrs.map(({ value }) => Buffer.from(value).toString("hex"));

test("ids of every range cross in the container's terms", () => {
  assert.deepEqual(toContainer(inode(100_999, 200_033), remapped), inode(999, 33));
  assert.deepEqual(toContainer(inode(500_000, 200_000), remapped), inode(1000, 0));
});

test("what the container has comes back to the host as it was", () => {
  const id = fc.nat({ max: 65_535 });
  fc.assert(fc.property(id, id, (uid, gid) => assert.deepEqual(toContainer(toHost(inode(uid, gid), remapped), remapped), inode(uid, gid))));
});

test("ids that the container has no name for become nobody's, as it sees them", () => {
  assert.deepEqual(toContainer(inode(0, 7), remapped), inode(65_534, 65_534));
});

test("an id that the host has no room for is refused", () => {
  assert.throws(() => toHost(inode(70_000, 0), remapped), { code: "ROOTFS", message: /user id.*70000/ });
  assert.throws(() => toHost(inode(0, 70_000), remapped), { code: "ROOTFS", message: /group id.*70000/ });
});

test("users and groups in access lists are mapped, nothing else in them", () => {
  // rwx for the owner; r-x for user 999; r-x for the group; r-- for group 33; mask; others.
  const inside = "0200000001000700ffffffff02000500e703000004000500ffffffff080004002100000010000700ffffffff20000000ffffffff";
  const outside = "0200000001000700ffffffff02000500878a010004000500ffffffff08000400610d030010000700ffffffff20000000ffffffff";
  for (const name of ["system.posix_acl_access", "system.posix_acl_default"]) {
    const host = inode(100_000, 200_000, [hex(name, outside)]);
    assert.deepEqual(values(toContainer(host, remapped)), [inside]);
    assert.deepEqual(values(host), [outside], "the host's own is not changed");
    assert.deepEqual(values(toHost(inode(0, 0, [hex(name, inside)]), remapped)), [outside]);
  }
});

test("a capability is the container root's on both hosts", () => {
  const ofRoot = "0100000200200000000000000000000000000000"; // revision 2, effective, cap_net_raw
  const ofRemappedRoot = "0100000300200000000000000000000000000000a0860100"; // revision 3, of 100000
  const capability = (value: string): Inode => inode(0, 0, [hex("security.capability", value)]);
  assert.deepEqual(values(toContainer(capability(ofRemappedRoot), remapped)), [ofRoot]);
  assert.deepEqual(values(toHost(capability(ofRoot), remapped)), [ofRemappedRoot]);
  assert.deepEqual(values(toContainer(capability(ofRoot), remapped)), [], "the host's root is nobody in the container");
});
