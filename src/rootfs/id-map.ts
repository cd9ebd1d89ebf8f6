/**
 * Owners in the container's own terms: where dockerd remaps user namespaces, the ids on the disk are shifted, differently on each host.
 *
 * Ids cross as the container sees them. They stand in an inode's owner and group, and inside two extended attributes.
 */
import { DmigrateError } from "../core/errors.ts";
import type { Inode, Xattr } from "./inode.ts";

/** A line of /proc/PID/uid_map: `count` ids from `container` on are, on the disk, those from `host` on. */
export interface IdRange {
  readonly container: number;
  readonly host: number;
  readonly count: number;
}

/** How a container's ids lie on a host's disk. */
export interface IdMap {
  readonly uids: readonly IdRange[];
  readonly gids: readonly IdRange[];
}

/** What the kernel shows where an id has none in the container: /proc/sys/kernel/overflowuid. */
const OVERFLOW_ID = 65534;

/** An inode as the container sees it. Ids that the container has no name for become the overflow id, as they do inside. */
export function toContainer(inode: Inode, map: IdMap): Inode {
  const uid = (id: number): number | undefined => translate(map.uids, id, "host", "container");
  const gid = (id: number): number | undefined => translate(map.gids, id, "host", "container");
  return mapped(
    inode,
    (id) => uid(id) ?? OVERFLOW_ID,
    (id) => gid(id) ?? OVERFLOW_ID,
    uid,
  );
}

/** An inode as it lies on this host's disk. Throws ROOTFS if the host has no id for one of the container's. */
export function toHost(inode: Inode, map: IdMap): Inode {
  const uid = (id: number): number => translate(map.uids, id, "container", "host") ?? missing("user", id);
  const gid = (id: number): number => translate(map.gids, id, "container", "host") ?? missing("group", id);
  return mapped(inode, uid, gid, uid);
}

function missing(what: string, id: number): never {
  throw new DmigrateError(
    "ROOTFS",
    `No ${what} id on this host for the container's ${id}; give dockerd's remapped user a range beyond it in /etc/subuid and /etc/subgid`,
  );
}

function translate(ranges: readonly IdRange[], id: number, from: "host" | "container", to: "host" | "container"): number | undefined {
  const range = ranges.find((each) => id >= each[from] && id < each[from] + each.count);
  return range && id - range[from] + range[to];
}

type Translation = (id: number) => number;

function mapped(inode: Inode, uid: Translation, gid: Translation, rootOf: (id: number) => number | undefined): Inode {
  const xattrs = inode.xattrs.flatMap((xattr) => mappedXattr(xattr, uid, gid, rootOf));
  return { ...inode, uid: uid(inode.uid), gid: gid(inode.gid), xattrs };
}

function mappedXattr(xattr: Xattr, uid: Translation, gid: Translation, rootOf: (id: number) => number | undefined): Xattr[] {
  switch (xattr.name) {
    case "system.posix_acl_access":
    case "system.posix_acl_default":
      return [{ name: xattr.name, value: mappedAcl(xattr.value, uid, gid) }];
    case "security.capability": {
      const value = mappedCapability(xattr.value, rootOf);
      return value === undefined ? [] : [{ name: xattr.name, value }];
    }
    default:
      return [xattr];
  }
}

// include/uapi/linux/posix_acl_xattr.h: u32 version, then entries of u16 tag, u16 permissions, u32 id; little-endian.
const ACL_HEADER_BYTES = 4;
const ACL_ENTRY_BYTES = 8;
const ACL_USER = 0x02;
const ACL_GROUP = 0x08;

function mappedAcl(value: Uint8Array, uid: Translation, gid: Translation): Uint8Array {
  const result = new Uint8Array(value);
  const view = viewOf(result);
  for (let at = ACL_HEADER_BYTES; at + ACL_ENTRY_BYTES <= result.length; at += ACL_ENTRY_BYTES) {
    const tag = view.getUint16(at, true);
    const id = view.getUint32(at + 4, true);
    if (tag === ACL_USER) view.setUint32(at + 4, uid(id), true);
    if (tag === ACL_GROUP) view.setUint32(at + 4, gid(id), true);
  }
  return result;
}

// include/uapi/linux/capability.h: u32 revision (top byte) and flags, then the sets; revision 3 ends with the u32 id of the user
// namespace's root for which it holds. Revision 2 holds for id 0.
const CAPABILITY_REVISION_2 = 0x02000000;
const CAPABILITY_REVISION_3 = 0x03000000;
const CAPABILITY_REVISION_MASK = 0xff000000;
const CAPABILITY_ROOT_AT = 20;
const CAPABILITY_BYTES = 24;

/** Undefined if the capability has no effect on the other side: its root is none there. */
function mappedCapability(value: Uint8Array, rootOf: (id: number) => number | undefined): Uint8Array | undefined {
  if (value.length < CAPABILITY_ROOT_AT) return value; // revision 1, which no kernel writes any more
  const root = rootOf(value.length < CAPABILITY_BYTES ? 0 : viewOf(value).getUint32(CAPABILITY_ROOT_AT, true));
  if (root === undefined) return undefined;
  const result = new Uint8Array(root === 0 ? CAPABILITY_ROOT_AT : CAPABILITY_BYTES);
  result.set(value.subarray(0, CAPABILITY_ROOT_AT));
  const view = viewOf(result);
  const flags = view.getUint32(0, true) & ~CAPABILITY_REVISION_MASK;
  view.setUint32(0, flags | (root === 0 ? CAPABILITY_REVISION_2 : CAPABILITY_REVISION_3), true);
  if (root !== 0) view.setUint32(CAPABILITY_ROOT_AT, root, true);
  return result;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
