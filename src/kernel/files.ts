/**
 * Files addressed by a directory's descriptor and a name, so that nothing on the way to them can be exchanged (openat2(2), statx(2),
 * getdents64(2) and the *at family).
 *
 * A name is bytes, not text: here it is a string with one character for each byte (latin1). Node's own calls would take it as UTF-8.
 * Names must not contain NUL. An empty name means the descriptor's own file where a call says so.
 */
import { declare, must, mustUnless } from "./libc.ts";

const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_REMOVEDIR = 0x200;
const AT_EMPTY_PATH = 0x1000;
const STATX_BASIC_STATS = 0x7ff;
const RESOLVE_NO_MAGICLINKS = 0x02n;
const RESOLVE_NO_SYMLINKS = 0x04n;
const RESOLVE_BENEATH = 0x08n;
const UTIME_OMIT = 0x3ffffffen;
const SYS_OPENAT2 = 437; // on every architecture
const SYS_GETDENTS64 = process.arch === "x64" ? 217 : 61;

const ENOENT = 2;
const EEXIST = 17;
const EXDEV = 18;
const ENOTDIR = 20;
const ELOOP = 40;

/** Opens a name without reading or writing what it names: open(2), O_PATH. Like O_CLOEXEC, Node does not know it. */
export const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;

const libc = {
  openat2: declare<(nr: number, fd: number, path: Buffer, how: BigUint64Array, bytes: number) => number>(
    "long syscall(long nr, int dirfd, const void *path, void *how, unsigned long size)",
  ),
  getdents64: declare<(nr: number, fd: number, into: Buffer, bytes: number) => number>(
    "long syscall(long nr, int fd, void *dirp, unsigned long count)",
  ),
  statx: declare<(fd: number, name: Buffer, flags: number, mask: number, into: Buffer) => number>(
    "int statx(int dirfd, const void *path, int flags, unsigned int mask, void *buf)",
  ),
  mkdirat: declare<(fd: number, name: Buffer, mode: number) => number>("int mkdirat(int dirfd, const void *path, unsigned int mode)"),
  mknodat: declare<(fd: number, name: Buffer, mode: number, device: number) => number>(
    "int mknodat(int dirfd, const void *path, unsigned int mode, unsigned long dev)",
  ),
  symlinkat: declare<(target: Buffer, fd: number, name: Buffer) => number>(
    "int symlinkat(const void *target, int dirfd, const void *linkpath)",
  ),
  readlinkat: declare<(fd: number, name: Buffer, into: Buffer, bytes: number) => number>(
    "long readlinkat(int dirfd, const void *path, void *buf, size_t size)",
  ),
  linkat: declare<(fd: number, name: Buffer, newFd: number, newName: Buffer, flags: number) => number>(
    "int linkat(int olddirfd, const void *oldpath, int newdirfd, const void *newpath, int flags)",
  ),
  unlinkat: declare<(fd: number, name: Buffer, flags: number) => number>("int unlinkat(int dirfd, const void *path, int flags)"),
  fchownat: declare<(fd: number, name: Buffer, uid: number, gid: number, flags: number) => number>(
    "int fchownat(int dirfd, const void *path, unsigned int owner, unsigned int group, int flags)",
  ),
  fchmodat: declare<(fd: number, name: Buffer, mode: number, flags: number) => number>(
    "int fchmodat(int dirfd, const void *path, unsigned int mode, int flags)",
  ),
  utimensat: declare<(fd: number, name: Buffer, times: BigInt64Array, flags: number) => number>(
    "int utimensat(int dirfd, const void *path, const void *times, int flags)",
  ),
};

function bytes(name: string): Buffer {
  return Buffer.from(`${name}\0`, "latin1");
}

/** What the kernel knows of a file (statx(2)). */
export interface FileStat {
  /** Type and permissions, as st_mode. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly linkCount: number;
  /** Bytes. */
  readonly size: number;
  /** Bytes it takes on the disk. */
  readonly allocated: number;
  readonly atimeNs: bigint;
  readonly mtimeNs: bigint;
  /** When anything of the inode last changed; no program can set it. */
  readonly ctimeNs: bigint;
  readonly inodeNumber: bigint;
  /** The file system it lies on. */
  readonly filesystem: number;
  /** Of a device node. */
  readonly device: { readonly major: number; readonly minor: number };
}

const OPEN_HOW_BYTES = 24; // struct open_how: u64 flags, mode, resolve

/**
 * Opens `path`, which may have several components, below a directory: neither by ".." nor by a symbolic link anywhere in it can it lead
 * elsewhere. Undefined if there is no such file, or only behind a link, or (with O_CREAT | O_EXCL) if there is one. Throws KERNEL.
 *
 * @param path relative to `directory`; "" is the directory itself
 * @param flags as of open(2); O_CLOEXEC is added
 */
export function openBeneath(directory: number, path: string, flags: number, mode = 0): number | undefined {
  const how = BigUint64Array.of(BigInt(flags | O_CLOEXEC), BigInt(mode), RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
  const result = libc.openat2(SYS_OPENAT2, directory, bytes(path === "" ? "." : path), how, OPEN_HOW_BYTES);
  return mustUnless("openat2", result, ENOENT, EEXIST, EXDEV, ENOTDIR, ELOOP);
}

const statBuffer = Buffer.alloc(256); // struct statx
const stat32 = new Uint32Array(statBuffer.buffer, statBuffer.byteOffset, 64);
const stat64 = new BigUint64Array(statBuffer.buffer, statBuffer.byteOffset, 32);
const statTimes = new BigInt64Array(statBuffer.buffer, statBuffer.byteOffset, 32);

/** State of a name in a directory, of a symbolic link itself; "" is the descriptor's own. Undefined if there is none. Throws KERNEL. */
export function statAt(directory: number, name: string): FileStat | undefined {
  const result = libc.statx(directory, bytes(name), AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH, STATX_BASIC_STATS, statBuffer);
  if (mustUnless("statx", result, ENOENT) === undefined) return undefined;
  return {
    mode: u32(28) & 0xffff,
    uid: u32(20),
    gid: u32(24),
    linkCount: u32(16),
    size: Number(u64(40)),
    allocated: Number(u64(48)) * 512,
    atimeNs: time(64),
    mtimeNs: time(112),
    ctimeNs: time(96),
    inodeNumber: u64(32),
    filesystem: u32(136) * 2 ** 32 + u32(140),
    device: { major: u32(128), minor: u32(132) },
  };
}

// The offsets of struct statx are multiples of their field's size, so that an index always hits.
const u32 = (offset: number): number => stat32[offset / 4] ?? 0;
const u64 = (offset: number): bigint => stat64[offset / 8] ?? 0n;
const time = (offset: number): bigint => (statTimes[offset / 8] ?? 0n) * 1_000_000_000n + BigInt(u32(offset + 8));

const DIRENT_NAME = 19; // struct linux_dirent64: u64 inode, i64 offset, u16 record length, u8 type, name
const listBuffer = Buffer.alloc(64 * 1024);

/** Names in an open directory, without "." and "..", in the kernel's order; none in one that was removed meanwhile. Throws KERNEL. */
export function namesIn(directory: number): string[] {
  const names: string[] = [];
  for (;;) {
    const size = mustUnless("getdents64", libc.getdents64(SYS_GETDENTS64, directory, listBuffer, listBuffer.length), ENOENT);
    if (size === undefined || size === 0) return names;
    for (let at = 0; at < size; at += listBuffer.readUInt16LE(at + 16)) {
      const name = listBuffer.toString("latin1", at + DIRENT_NAME, listBuffer.indexOf(0, at + DIRENT_NAME));
      if (name !== "." && name !== "..") names.push(name);
    }
  }
}

/** Makes a directory; false if the name is taken. Throws KERNEL. */
export function makeDirectoryAt(directory: number, name: string, mode: number): boolean {
  return mustUnless("mkdirat", libc.mkdirat(directory, bytes(name), mode), EEXIST) !== undefined;
}

/** Makes a fifo, a socket or a device, by the type in `mode`. Throws KERNEL. */
export function makeNodeAt(directory: number, name: string, mode: number, device: FileStat["device"]): void {
  const { major, minor } = device; // as makedev(3) packs what Linux knows: 12 bits of major, 20 of minor
  const packed = (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12);
  must("mknodat", libc.mknodat(directory, bytes(name), mode, packed >>> 0));
}

/** Makes a symbolic link. Throws KERNEL. */
export function makeSymlinkAt(directory: number, name: string, target: string): void {
  must("symlinkat", libc.symlinkat(bytes(target), directory, bytes(name)));
}

const PATH_MAX = 4096;
const linkBuffer = Buffer.alloc(PATH_MAX);

/** What a symbolic link says; undefined if there is no such name. Throws KERNEL. */
export function readLinkAt(directory: number, name: string): string | undefined {
  const size = mustUnless("readlinkat", libc.readlinkat(directory, bytes(name), linkBuffer, linkBuffer.length), ENOENT);
  return size === undefined ? undefined : linkBuffer.toString("latin1", 0, size);
}

/** Gives a file a further name; a symbolic link gets one itself. Throws KERNEL. */
export function linkAt(directory: number, name: string, newDirectory: number, newName: string): void {
  must("linkat", libc.linkat(directory, bytes(name), newDirectory, bytes(newName), 0));
}

/** Removes a name that is no directory; one that is not there is removed already. Throws KERNEL. */
export function unlinkAt(directory: number, name: string): void {
  mustUnless("unlinkat", libc.unlinkat(directory, bytes(name), 0), ENOENT);
}

/** Removes an empty directory. Throws KERNEL. */
export function removeDirectoryAt(directory: number, name: string): void {
  must("unlinkat", libc.unlinkat(directory, bytes(name), AT_REMOVEDIR));
}

/** Sets owner and group, of a symbolic link itself. Takes set-uid bits and capabilities away, as the kernel does. Throws KERNEL. */
export function changeOwnerAt(directory: number, name: string, uid: number, gid: number): void {
  must("fchownat", libc.fchownat(directory, bytes(name), uid, gid, AT_SYMLINK_NOFOLLOW));
}

/** Sets the permissions of what must be no symbolic link, for it would be followed. Throws KERNEL. */
export function changeModeAt(directory: number, name: string, permissions: number): void {
  must("fchmodat", libc.fchmodat(directory, bytes(name), permissions, 0));
}

/** Sets the times of the last modification and access, of a symbolic link itself; without `atimeNs` the latter stays. Throws KERNEL. */
export function setTimesAt(directory: number, name: string, { mtimeNs, atimeNs }: FileTimes): void {
  const times = BigInt64Array.of(...(atimeNs === undefined ? [0n, UTIME_OMIT] : timespec(atimeNs)), ...timespec(mtimeNs));
  must("utimensat", libc.utimensat(directory, bytes(name), times, AT_SYMLINK_NOFOLLOW));
}

/** Nanoseconds since 1970. */
export interface FileTimes {
  readonly mtimeNs: bigint;
  readonly atimeNs?: bigint;
}

/** struct timespec. */
function timespec(timeNs: bigint): [seconds: bigint, nanoseconds: bigint] {
  const second = 1_000_000_000n;
  const nanoseconds = ((timeNs % second) + second) % second; // not negative, also before 1970
  return [(timeNs - nanoseconds) / second, nanoseconds];
}
