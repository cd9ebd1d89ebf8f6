/** Paths that are bytes, and cannot lead out of their tree. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ROOT, bytePath, childPath, isPortableXattr, showPath, splitPath } from "./inode.ts";

test("a path has no component that leads elsewhere", () => {
  for (const path of ["", "a", "a/b", "...", ".a/b.", "\xff\n", "a".repeat(255), "a/".repeat(2047) + "a"]) {
    assert.equal(bytePath(path), path, path);
  }
  for (const path of ["/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0b", "a".repeat(256), "a/".repeat(2048) + "a"]) {
    assert.equal(bytePath(path), undefined, path);
  }
});

test("a path is split where it was joined", () => {
  const child = childPath(childPath(ROOT, "a"), "b");
  assert.deepEqual(splitPath(child), { directory: "a", name: "b" });
  assert.deepEqual(splitPath(childPath(ROOT, "a")), { directory: "", name: "a" });
});

test("a path too long to be used is refused by name", () => {
  let path = ROOT;
  assert.throws(
    () => {
      for (;;) path = childPath(path, "d".repeat(200));
    },
    { code: "ROOTFS", message: /too long.*dddd/ },
  );
});

test("a path is shown as text, from the root, with what is no text marked", () => {
  assert.equal(showPath("a/\xc3\xbc\xff\n"), String.raw`"/a/ü�\n"`);
});

test("attributes of the host are told from those of the container", () => {
  for (const name of ["user.a", "trusted.overlay.opaque", "security.capability", "system.posix_acl_access", "system.posix_acl_default"]) {
    assert.ok(isPortableXattr(name), name);
  }
  for (const name of ["security.selinux", "btrfs.compression", "system.nfs4_acl", "users.a"]) assert.ok(!isPortableXattr(name), name);
});
