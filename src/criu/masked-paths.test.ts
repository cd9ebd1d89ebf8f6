/**
 * Masks that lie in the container's own /dev stop being external mounts, others and everything else are left as they are.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { DmigrateError } from "../core/errors.ts";
import { entriesOf, fieldsOf, numberField } from "./image-entries.ts";
import { bytesField, imageOf } from "./image-fixture.ts";
import { mendMaskedPaths } from "./masked-paths.ts";

interface Mount {
  readonly device: number;
  readonly root: string;
  readonly at: string;
  readonly key?: string;
}

const DEV: Mount = { device: 76, root: "/", at: "/dev" };
const MASK: Mount = { device: 76, root: "/null", at: "/proc/keys", key: "/dev/null" };

test("a mask out of the container's own /dev is an ordinary bind mount, wherever it stands in the image", () => {
  for (const mounts of [
    [DEV, MASK],
    [MASK, DEV],
  ]) {
    const image = mountsImage(mounts);
    assert.equal(mendMaskedPaths(image), 1);
    assert.deepEqual(keysIn(image), [undefined, undefined]);
    assert.equal(mendMaskedPaths(image), 0);
  }
});

test("masks that lie on a device of the host, and other external mounts, stay what they are", () => {
  const hosts = { ...DEV, key: "/dev" };
  const hostname = { device: 76, root: "/hostname", at: "/etc/hostname", key: "/etc/hostname" };
  for (const mounts of [[MASK], [hosts, MASK], [{ ...DEV, device: 77 }, MASK], [DEV, hostname]]) {
    const image = mountsImage(mounts);
    assert.equal(mendMaskedPaths(image), 0);
    assert.deepEqual(image, mountsImage(mounts));
  }
});

test("an image that is cut short is refused", () => {
  assert.throws(
    () => mendMaskedPaths(mountsImage([DEV, MASK]).subarray(0, -1)),
    (error) => error instanceof DmigrateError && error.code === "PROTOCOL",
  );
});

function mountsImage(mounts: readonly Mount[]): Buffer {
  return imageOf(
    0x55563928,
    mounts.map(({ device, root, at, key }) => [
      ...numberField(1, 5),
      ...numberField(3, device),
      ...textField(6, root),
      ...textField(7, at),
      ...(key === undefined ? [] : textField(18, key)),
    ]),
  );
}

function textField(number: number, text: string): number[] {
  return bytesField(number, [...Buffer.from(text)]);
}

/** The key of each mount. */
function keysIn(image: Buffer): (string | undefined)[] {
  return [...entriesOf(image)].map(({ start, end }) => {
    const key = fieldsOf(image, start, end).find(({ number }) => number === 18);
    return key && image.toString("utf8", key.start, key.end);
  });
}
