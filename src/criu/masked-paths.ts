/**
 * Masks files of /proc on the target with what masked them on the source: the container's own null device.
 *
 * Docker hides files such as /proc/keys behind the container's /dev/null. For a dump runc calls these mounts external, and a restore
 * binds what stands at /dev/null on the *host* over them (libcontainer/criu_linux.go, `MaskPaths`): a writable inode, whose mode
 * and times the container could change for everybody there.
 *
 * Pure. In the image such a mount says that it is external by a key; without that CRIU takes it for what it is, a bind mount
 * out of the container's /dev, whose content is in the images.
 */
import { entriesOf, fieldsOf, type Field } from "./image-entries.ts";

/** images/mnt.proto, mnt_entry. */
const MOUNT = { DEVICE: 3, ROOT: 6, EXTERNAL_KEY: 18 } as const;
const MASK_KEY = "/dev/null";
/** Makes the second byte of the key's tag that of a field that no release of CRIU knows, which it skips: nothing in the image moves. */
const UNKNOWN_FIELD = 0x7f;

interface MountEntry {
  readonly device: bigint | undefined;
  readonly root: string;
  readonly key: Field | undefined;
  readonly keyText: string;
}

/**
 * Mends a `mountpoints-*.img` in place; returns how many masks it mended. One whose device is none of the container's own is left
 * as it is: where user ids are remapped, and after a move by something else, it is the host's already. Throws PROTOCOL if it is no such
 * image.
 */
export function mendMaskedPaths(mountsImage: Buffer): number {
  const mounts = [...entriesOf(mountsImage)].map(({ start, end }) => mountOf(mountsImage, [...fieldsOf(mountsImage, start, end)]));
  const ownDevices = new Set(mounts.filter(({ root, key }) => root === "/" && key === undefined).map(({ device }) => device));
  const masks = mounts.filter(({ keyText, device }) => keyText === MASK_KEY && ownDevices.has(device));
  for (const { key } of masks) {
    if (key !== undefined) mountsImage[key.tagEnd - 1] = UNKNOWN_FIELD;
  }
  return masks.length;
}

function mountOf(image: Buffer, fields: readonly Field[]): MountEntry {
  const byNumber = new Map(fields.map((field) => [field.number, field]));
  const textOf = (field: Field | undefined): string => (field === undefined ? "" : image.toString("utf8", field.start, field.end));
  const key = byNumber.get(MOUNT.EXTERNAL_KEY);
  return { device: byNumber.get(MOUNT.DEVICE)?.value, root: textOf(byNumber.get(MOUNT.ROOT)), key, keyText: textOf(key) };
}
