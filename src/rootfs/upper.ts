/**
 * How overlayfs writes into an upper directory what no plain tree has (Documentation/filesystems/overlayfs.rst, fs/overlayfs/overlayfs.h).
 */
import { DmigrateError } from "../core/errors.ts";
import { showPath, type BytePath, type Xattr } from "./inode.ts";

const OVERLAY = "trusted.overlay.";
/** An overlay inside the container wrote an attribute of its own: it lies here under one prefix more. */
const NESTED = "trusted.overlay.overlay.";

/** An inode's attributes in an upper directory, read apart. */
export interface UpperAttributes {
  /** Those that the container sees. */
  readonly xattrs: readonly Xattr[];
  /** Of a directory: nothing of the lower layers is seen through it. */
  readonly opaque: boolean;
  /** Of an empty file: it stands for the absence of its name. */
  readonly whiteout: boolean;
}

/** Reads attributes as they lie on the disk. Throws ROOTFS if the inode's name or content lies elsewhere. */
export function upperAttributes(path: BytePath, raw: readonly Xattr[]): UpperAttributes {
  const xattrs: Xattr[] = [];
  let opaque = false;
  let whiteout = false;
  for (const xattr of raw) {
    const { name, value } = xattr;
    if (!name.startsWith(OVERLAY)) xattrs.push(xattr);
    else if (name.startsWith(NESTED)) xattrs.push({ name: OVERLAY + name.slice(NESTED.length), value });
    else if (name === "trusted.overlay.opaque") opaque = value.length === 1 && value[0] === 0x79; // "y"; "x" speaks of whiteouts only
    else if (name === "trusted.overlay.whiteout") whiteout = true;
    else if (name === "trusted.overlay.redirect" || name === "trusted.overlay.metacopy") {
      throw new DmigrateError(
        "ROOTFS",
        `The writable layer does not hold ${showPath(path)} itself (${name}); set overlay's module parameters redirect_dir and metacopy ` +
          `to N and recreate the container`,
      );
    }
  }
  return { xattrs: xattrs.toSorted(byName), opaque, whiteout };
}

/** Order of attributes in an inode. */
export function byName(a: Xattr, b: Xattr): number {
  return a.name < b.name ? -1 : Number(a.name > b.name);
}
