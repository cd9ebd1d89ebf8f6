/**
 * Extended attributes of a file addressed by a directory's descriptor and a name; of a symbolic link itself (xattr(7)).
 *
 * Names are byte strings as in files.ts. The name "." is the directory itself.
 */
import { declare, must, mustUnless } from "./libc.ts";

const ENOENT = 2;
const ERANGE = 34;
const ENODATA = 61;
/** The most a list of names, or one value, can take: limits.h, XATTR_LIST_MAX and XATTR_SIZE_MAX. */
const XATTR_MAX = 64 * 1024;

const libc = {
  list: declare<(path: Buffer, into: Buffer, bytes: number) => number>("long llistxattr(const void *path, void *list, size_t size)"),
  get: declare<(path: Buffer, name: Buffer, into: Buffer, bytes: number) => number>(
    "long lgetxattr(const void *path, const void *name, void *value, size_t size)",
  ),
  set: declare<(path: Buffer, name: Buffer, value: Uint8Array, bytes: number, flags: number) => number>(
    "int lsetxattr(const void *path, const void *name, const void *value, size_t size, int flags)",
  ),
  remove: declare<(path: Buffer, name: Buffer) => number>("int lremovexattr(const void *path, const void *name)"),
};

/** There is no call of the *at family for attributes before Linux 6.13; this path leads to the same file. */
function pathOf(directory: number, name: string): Buffer {
  return bytes(`/proc/self/fd/${directory}/${name}`);
}

function bytes(name: string): Buffer {
  return Buffer.from(`${name}\0`, "latin1");
}

const buffer = Buffer.alloc(XATTR_MAX);

/** Names of a file's attributes, in the kernel's order; none where the file system has none. Undefined without the file. Throws KERNEL. */
export function listXattrsAt(directory: number, name: string): readonly string[] | undefined {
  const size = mustUnless("llistxattr", libc.list(pathOf(directory, name), buffer, buffer.length), ENOENT);
  if (size === undefined) return undefined;
  return size === 0 ? [] : buffer.toString("latin1", 0, size - 1).split("\0");
}

/** An attribute's value; undefined if the file or the attribute is not there. Throws KERNEL. */
export function getXattrAt(directory: number, name: string, attribute: string): Buffer | undefined {
  const size = mustUnless("lgetxattr", libc.get(pathOf(directory, name), bytes(attribute), buffer, buffer.length), ENOENT, ENODATA, ERANGE);
  return size === undefined ? undefined : Buffer.from(buffer.subarray(0, size));
}

/** Sets an attribute. Throws KERNEL. */
export function setXattrAt(directory: number, name: string, attribute: string, value: Uint8Array): void {
  must("lsetxattr", libc.set(pathOf(directory, name), bytes(attribute), value, value.length, 0));
}

/** Removes an attribute; one that is not there is removed already. Throws KERNEL. */
export function removeXattrAt(directory: number, name: string, attribute: string): void {
  mustUnless("lremovexattr", libc.remove(pathOf(directory, name), bytes(attribute)), ENODATA);
}
