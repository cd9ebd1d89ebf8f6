/**
 * What a tree of files consists of: paths that are bytes, and inodes of every type a file system has.
 */
import { DmigrateError } from "../core/errors.ts";

declare const brand: unique symbol;

/**
 * A path relative to the root of its tree, "" for the root itself: bytes, not text, one character for each byte (latin1). None of its
 * components is empty, "." or "..", so it cannot lead out of the tree except through a link.
 */
export type BytePath = string & { readonly [brand]: "BytePath" };

/** The root of a tree. */
export const ROOT = "" as BytePath; // satisfies the rule by definition

const NAME_BYTES_MAX = 255; // NAME_MAX
/** The longest path and the longest target of a symbolic link: PATH_MAX without its NUL. */
export const PATH_BYTES_MAX = 4095;

/** Checks a path that came from outside; undefined if it is none. */
export function bytePath(text: string): BytePath | undefined {
  const isPath = text.length <= PATH_BYTES_MAX && (text === "" || text.split("/").every(isName));
  return isPath ? (text as BytePath) : undefined; // just checked
}

function isName(name: string): boolean {
  return name !== "" && name !== "." && name !== ".." && name.length <= NAME_BYTES_MAX && !name.includes("\0");
}

/** The path of a name that the kernel told in a directory of a tree. Throws ROOTFS if it is too long to be used from outside. */
export function childPath(directory: BytePath, name: string): BytePath {
  const path = (directory === "" ? name : `${directory}/${name}`) as BytePath; // the kernel's names satisfy the rule
  if (path.length <= PATH_BYTES_MAX) return path;
  throw new DmigrateError("ROOTFS", `Path too long to be copied: ${showPath(path)}; move it nearer to the root`);
}

/** A path's directory and the name in it. The root's name is "". */
export function splitPath(path: BytePath): { readonly directory: BytePath; readonly name: string } {
  const slash = path.lastIndexOf("/");
  return { directory: path.slice(0, Math.max(slash, 0)) as BytePath, name: path.slice(slash + 1) }; // a prefix of a path is one
}

const SHOWN_BYTES_MAX = 300;

/** A path for people: in quotes, as seen from the root, bytes that are no UTF-8 replaced, the middle of a long one left out. */
export function showPath(path: string): string {
  const shown = path.length <= SHOWN_BYTES_MAX ? path : `${path.slice(0, SHOWN_BYTES_MAX / 2)}...${path.slice(-SHOWN_BYTES_MAX / 2)}`;
  return JSON.stringify(`/${new TextDecoder().decode(Uint8Array.from(shown, (char) => char.charCodeAt(0)))}`);
}

/** An extended attribute. The name is a byte string. */
export interface Xattr {
  readonly name: string;
  readonly value: Uint8Array;
}

const PORTABLE_XATTR = /^(user|trusted|security)\.|^system\.posix_acl_(access|default)$/;

/** False for attributes of the host's own: its SELinux policy's labels, and what a file system says of itself, like btrfs.compression. */
export function isPortableXattr(name: string): boolean {
  return PORTABLE_XATTR.test(name) && name !== "security.selinux";
}

/** A type of file with what only that type has. */
export type FileKind =
  /** `opaque`: marked so that nothing of a lower layer is seen through it. */
  | { readonly type: "directory"; readonly opaque: boolean }
  /** `size` in bytes. */
  | { readonly type: "file"; readonly size: number }
  /** `target` is a byte string. */
  | { readonly type: "symlink"; readonly target: string }
  | { readonly type: "fifo" }
  | { readonly type: "socket" }
  | { readonly type: "character-device" | "block-device"; readonly major: number; readonly minor: number };

/** A file as it crosses: everything but its name and its content. */
export interface Inode {
  readonly kind: FileKind;
  /** The lower 12 bits of st_mode. */
  readonly permissions: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeNs: bigint;
  /** Sorted by name. */
  readonly xattrs: readonly Xattr[];
}

/** Type bits of st_mode (inode(7)). */
const TYPE_BITS = {
  fifo: 0o010000,
  "character-device": 0o020000,
  directory: 0o040000,
  "block-device": 0o060000,
  file: 0o100000,
  symlink: 0o120000,
  socket: 0o140000,
} as const satisfies Record<FileKind["type"], number>;

const TYPES = new Map<number, FileKind["type"]>();
for (const [type, bits] of Object.entries(TYPE_BITS)) TYPES.set(bits, type as FileKind["type"]); // the keys are these types

const TYPE_MASK = 0o170000;
const PERMISSIONS_MASK = 0o7777;

/** Type and permissions in one number, as st_mode. */
export function modeOf(inode: Inode): number {
  return TYPE_BITS[inode.kind.type] | inode.permissions;
}

/** The type that the bits of an st_mode say; undefined if they say none. */
export function typeOfMode(mode: number): FileKind["type"] | undefined {
  return TYPES.get(mode & TYPE_MASK);
}

/** The permissions in an st_mode. */
export function permissionsOfMode(mode: number): number {
  return mode & PERMISSIONS_MASK;
}
