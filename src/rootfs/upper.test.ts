/** What overlayfs writes into an upper directory. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ROOT, type Xattr } from "./inode.ts";
import { upperAttributes } from "./upper.ts";

const xattr = (name: string, value = ""): Xattr => ({ name, value: Buffer.from(value) });

test("overlayfs's own attributes are read and left out, the others sorted", () => {
  const raw = [xattr("user.b", "1"), xattr("trusted.overlay.origin", "x"), xattr("trusted.overlay.opaque", "y"), xattr("user.a")];
  assert.deepEqual(upperAttributes(ROOT, raw), { xattrs: [xattr("user.a"), xattr("user.b", "1")], opaque: true, whiteout: false });
});

test("an overlay inside the container keeps its attributes", () => {
  const { xattrs, opaque } = upperAttributes(ROOT, [
    xattr("trusted.overlay.overlay.opaque", "y"),
    xattr("trusted.overlay.overlay.overlay.a"),
  ]);
  assert.deepEqual(
    xattrs,
    [xattr("trusted.overlay.opaque", "y"), xattr("trusted.overlay.overlay.a")].toSorted((a, b) => (a.name < b.name ? -1 : 1)),
  );
  assert.equal(opaque, false);
});

test("a directory that only may hold whiteouts is not opaque", () => {
  assert.equal(upperAttributes(ROOT, [xattr("trusted.overlay.opaque", "x")]).opaque, false);
});

test("a whiteout can be an attribute", () => {
  assert.equal(upperAttributes(ROOT, [xattr("trusted.overlay.whiteout")]).whiteout, true);
});

test("an inode whose name or content lies elsewhere is refused", () => {
  for (const name of ["trusted.overlay.redirect", "trusted.overlay.metacopy"]) {
    assert.throws(() => upperAttributes(ROOT, [xattr(name)]), { code: "ROOTFS", message: /redirect_dir and metacopy/ });
  }
});
