/**
 * One process as it runs: what it holds that a dump has to know of. Read from /proc alone; the process is not touched.
 */
import { closeSync, constants, openSync, readFileSync, readSync, readdirSync, readlinkSync, statSync, type Stats } from "node:fs";
import path from "node:path";
import {
  NAMESPACES,
  type DeletedFile,
  type Descriptor,
  type Mapping,
  type MemoryFacts,
  type Namespace,
  type ProcessFacts,
  type Socket,
} from "../core/preflight-facts.ts";
import { socketProtocol } from "../kernel/foreign-sockets.ts";
import type { Mount } from "../kernel/mountinfo.ts";
import { parseMaps, type MapsEntry } from "../kernel/maps.ts";
import { canScan } from "../kernel/pagemap.ts";
import { canPuppet } from "../kernel/puppet.ts";
import { forkSharedBytes, parseSmapsRollup, parseStatus, type Status } from "./proc.ts";
import type { SocketTable, SocketTables } from "./sockets.ts";

/** What is known of a process before it is read. */
export interface Surroundings {
  /** Namespaces of the container's init, as the texts of its links. */
  readonly namespaces: Namespaces;
  /** Every namespace that some process of the container lives in. */
  readonly inhabited: ReadonlySet<string>;
  /** Every mount that some process of the container sees. */
  readonly mounts: readonly Mount[];
  /** Pids of all processes of the container. */
  readonly pids: ReadonlySet<number>;
  readonly sockets: SocketTables;
}

/** Where each namespace's link leads, like `net:[4026531840]`. */
export type Namespaces = Readonly<Partial<Record<Namespace, string>>>;

type ThreadFact = "state" | "tracerPid" | "inheritsBeyondBounds" | "inVfork" | "processors";

/** A process without its place among the others. */
export type ProcessReading = Omit<ProcessFacts, "origin">;

const NO_MEMORY: MemoryFacts = { residentBytes: 0, anonymousBytes: 0, sharedBytes: 0, lockedBytes: 0, hugePageBytes: 0 };
const ZOMBIE = "Z";
const STOPPED = "T";
const UNINTERRUPTIBLE = "D";
/** The kernel's functions in which a parent waits after vfork(2), by what its compiler made of them. */
const VFORK = /^(wait_for_vfork_done|kernel_clone|_do_fork)\b/;
/** A mapping whose missing pages somebody gives by userfaultfd (proc_pid_smaps(5), VmFlags). */
const MISSING_HANDLED = /^VmFlags:.* um\b/m;
const { O_DIRECT, O_RDONLY } = constants;
/** Of fcntl.h: which of the flags tell reading from writing. */
const O_ACCMODE = 3;

/** Files of memory alone: their names end with ` (deleted)` though they never had one. */
const NAMELESS = /^\/(memfd:|dev\/zero|SYSV|\[aio\]|anon_hugepage)/;
/** What looks like a deleted file, but is of a kind that CRIU does not know. */
const STRANGE = /^\/(dmabuf|secretmem)\b/;
/** File systems of containers whose files can be opened by handle (open_by_handle_at(2)). */
const HANDLES_OPEN = new Set(["ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "devtmpfs", "nfs", "nfs4", "f2fs", "zfs"]);
const DELETED = " (deleted)";
/** What an SQLite database begins with, and where it tells how it may be written to (https://sqlite.org/fileformat2.html). */
const SQLITE = { magic: "SQLite format 3\0", versionAt: 18, rollback: 1 } as const;
const DEV_ZERO = "/dev/zero";

/** Reads process `folder` (/proc/PID). Throws ENOENT or ESRCH if it has ended. */
export function readProcess(folder: string, surroundings: Surroundings): ProcessReading {
  const { capabilities: _, ...status } = parseStatus(readFileSync(`${folder}/status`, "utf8"));
  const pid = Number(path.basename(folder));
  if (status.state === ZOMBIE) {
    const nothing = { memory: NO_MEMORY, foreignNamespaces: [], processors: [], descriptors: [], mappings: [] };
    return { pid, ...status, inVfork: false, isMemfd: false, hasMainThreadTimer: false, lacksMemory: false, ...nothing };
  }
  const namespaces = readNamespaces(folder);
  const smaps = readFileSync(`${folder}/smaps`, "utf8");
  return {
    pid,
    ...status,
    ...readThreads(folder, status),
    isMemfd: readlinkSync(`${folder}/exe`).startsWith("/memfd:"),
    hasMainThreadTimer: hasMainThreadTimer(folder, pid),
    lacksMemory: MISSING_HANDLED.test(smaps),
    memory: readMemoryFacts(folder, smaps),
    foreignNamespaces: NAMESPACES.filter((namespace) => namespaces[namespace] !== surroundings.namespaces[namespace]),
    descriptors: readDescriptors(folder, surroundings),
    mappings: readMappings(folder, surroundings.mounts),
  };
}

/** Shared memory that is copied ahead crosses as other memory does (docs/decisions/0021-shared-memory.md). */
function readMemoryFacts(folder: string, smaps: string): MemoryFacts {
  const facts = parseSmapsRollup(readFileSync(`${folder}/smaps_rollup`, "utf8"));
  return canPuppet() && canScan() ? { ...facts, sharedBytes: Math.max(0, facts.sharedBytes - forkSharedBytes(smaps)) } : facts;
}

/** Where the links of /proc/PID/ns lead (namespaces(7)). */
export function readNamespaces(folder: string): Namespaces {
  return Object.fromEntries(NAMESPACES.map((namespace) => [namespace, readlinkSync(`${folder}/ns/${namespace}`)]));
}

/** What each thread has of its own, seen as the process's. */
function readThreads(folder: string, { state }: Pick<Status, "state">): Pick<ProcessFacts, ThreadFact> {
  const threads: (Status & { inVfork: boolean })[] = [];
  for (const thread of readdirSync(`${folder}/task`)) {
    unlessGone(() => {
      const status = parseStatus(readFileSync(`${folder}/task/${thread}/status`, "utf8"));
      const inVfork = status.state === UNINTERRUPTIBLE && VFORK.test(readFileSync(`${folder}/task/${thread}/wchan`, "utf8"));
      threads.push({ ...status, inVfork });
    });
  }
  return {
    state: threads.some((thread) => thread.state === STOPPED) ? STOPPED : state,
    tracerPid: threads.find(({ tracerPid }) => tracerPid !== 0)?.tracerPid ?? 0,
    inheritsBeyondBounds: threads.some(({ inheritsBeyondBounds }) => inheritsBeyondBounds),
    inVfork: threads.some(({ inVfork }) => inVfork),
    processors: [...new Set(threads.map(({ processors }) => processors))],
  };
}

/** /proc/PID/timers (proc_pid_timers(5)), which not every kernel has. */
function hasMainThreadTimer(folder: string, pid: number): boolean {
  let timers = "";
  unlessGone(() => (timers = readFileSync(`${folder}/timers`, "utf8")));
  return [...timers.matchAll(/^notify: \w+\/tid\.(\d+)$/gm)].some(([, thread]) => Number(thread) === pid);
}

function readDescriptors(folder: string, surroundings: Surroundings): Descriptor[] {
  const descriptors: Descriptor[] = [];
  for (const name of readdirSync(`${folder}/fd`)) {
    const fd = Number(name);
    unlessGone(() => descriptors.push(...readDescriptor(folder, fd, surroundings)));
  }
  return descriptors;
}

function readDescriptor(folder: string, fd: number, surroundings: Surroundings): Descriptor[] {
  const file = `${folder}/fd/${fd}`;
  const target = readlinkSync(file);
  if (target.startsWith("/")) return readFileDescriptor(folder, fd, target, surroundings.mounts);
  const [kind = "", id = ""] = target.split(/:\[?|\]/);
  switch (kind) {
    case "pipe":
      return isPacketPipe(folder, fd) ? [{ kind: "packet-pipe", fd }] : [];
    case "socket":
      return [{ kind: "socket", fd, socket: readSocket(file, Number(id), surroundings.sockets.of(folder)) }];
    case "anon_inode":
      if (id === "pidfd" && isOutside(folder, fd, surroundings.pids)) return [{ kind: "outside-process", fd }];
      if (id === "eventfd" && isSemaphore(folder, fd)) return [{ kind: "eventfd-semaphore", fd }];
      if (id === "inotify" || id === "fanotify") return readWatches(folder, fd, surroundings.mounts);
      return [{ kind: "anonymous", fd, type: id }];
    default:
      return surroundings.inhabited.has(target) ? [] : [{ kind: "outside-namespace", fd, type: kind }];
  }
}

function readFileDescriptor(folder: string, fd: number, target: string, mounts: readonly Mount[]): Descriptor[] {
  const strange = STRANGE.exec(target)?.[1];
  if (strange !== undefined) return [{ kind: "anonymous", fd, type: strange }];
  if (NAMELESS.test(target)) return [];
  const fdinfo = readFileSync(`${folder}/fdinfo/${fd}`, "utf8");
  const mountId = Number(/^mnt_id:\s*(\d+)$/m.exec(fdinfo)?.[1]);
  const mount = mounts.find(({ id }) => id === mountId);
  if (mount === undefined) return [{ kind: "outside-file", fd, path: target }];
  const stat = statSync(`${folder}/fd/${fd}`);
  if (stat.isCharacterDevice() && target === "/dev/tty" && !leadsForeground(folder)) return [{ kind: "background-terminal", fd }];
  if (stat.isCharacterDevice() || stat.isBlockDevice()) {
    return [{ kind: "device", fd, path: target, block: stat.isBlockDevice(), major: major(stat.rdev), minor: minor(stat.rdev) }];
  }
  if (!stat.isFile()) return [];
  const deleted = readDeleted(folder, target, stat, mounts);
  const isLocked = /^lock:/m.test(fdinfo);
  return [
    ...(deleted === undefined ? [] : [{ kind: "deleted", fd, file: deleted } as const]),
    ...(isLocked ? [{ kind: "lock", fd } as const] : []),
    ...((flagsIn(fdinfo) & O_ACCMODE) !== O_RDONLY && deleted === undefined && keepsRollbackJournal(`${folder}/fd/${fd}`)
      ? [{ kind: "sqlite", fd, path: target, mountPoint: mount.path } as const]
      : []),
  ];
}

function keepsRollbackJournal(file: string): boolean {
  const header = Buffer.alloc(SQLITE.versionAt + 1);
  const fd = openSync(file, O_RDONLY);
  try {
    readSync(fd, header, 0, header.length, 0);
  } finally {
    closeSync(fd);
  }
  return header.toString("latin1", 0, SQLITE.magic.length) === SQLITE.magic && header[SQLITE.versionAt] === SQLITE.rollback;
}

/**
 * What inotify or fanotify watches on file systems whose files can't be opened by the handles in its fdinfo (proc_pid_fdinfo(5)). `sdev`
 * is the kernel's own form of a device number: 20 bits of minor.
 */
function readWatches(folder: string, fd: number, mounts: readonly Mount[]): Descriptor[] {
  const fdinfo = readFileSync(`${folder}/fdinfo/${fd}`, "utf8");
  return [...fdinfo.matchAll(/^(?:inotify wd:\S+|fanotify) ino:([0-9a-f]+) sdev:([0-9a-f]+) /gm)].flatMap(([, inode = "", sdev = ""]) => {
    const device = Number.parseInt(sdev, 16);
    const type =
      mounts.find((mount) => mount.device === `${device >>> 20}:${device & 0xf_ffff}`)?.type ?? "a file system that is not mounted";
    if (HANDLES_OPEN.has(type)) return [];
    return [{ kind: "watch", fd, fileSystem: type, inode: Number.parseInt(inode, 16) }];
  });
}

/** The file if its name is gone, rather than ending with what the kernel marks such names with. */
function readDeleted(folder: string, target: string, stat: Stats, mounts: readonly Mount[]): DeletedFile | undefined {
  if (!target.endsWith(DELETED)) return undefined;
  const namesake = statSync(`${folder}/root${target}`, { throwIfNoEntry: false });
  if (namesake?.ino === stat.ino && namesake.dev === stat.dev) return undefined;
  const device = `${major(stat.dev)}:${minor(stat.dev)}`;
  const fileSystem = mounts.find((mount) => mount.device === device)?.type ?? "";
  return { path: target.slice(0, -DELETED.length), diskBytes: stat.blocks * 512, linkCount: stat.nlink, fileSystem, inode: stat.ino };
}

/** The tables know only sockets that are bound to something, and take the ones of Multipath TCP for TCP. */
function readSocket(file: string, inode: number, sockets: SocketTable): Socket {
  const protocol = socketProtocol(file);
  const unbound = unboundSocket(protocol, inode);
  return unbound.type === "other" ? unbound : (sockets.get(inode) ?? unbound);
}

function unboundSocket(protocol: string, inode: number): Socket {
  switch (protocol.replace(/v6$/, "")) {
    case "TCP":
      return { type: "tcp", state: "closed", local: "", remote: "" };
    case "UDP":
    case "UDP-Lite":
    case "PING":
      return { type: "udp", local: "" };
    case "RAW":
      return { type: "raw" };
    case "PACKET":
      return { type: "packet", interfaceIndex: 0 };
    case "NETLINK":
      return { type: "netlink", queuedBytes: 0, groups: 0, portId: 0 };
    case "UNIX":
    case "UNIX-STREAM":
      return { type: "unix", inode, peerInode: 0, path: "" };
    default:
      return { type: "other", protocol };
  }
}

/** O_DIRECT as on most architectures. */
function isPacketPipe(folder: string, fd: number): boolean {
  return (flagsIn(readFileSync(`${folder}/fdinfo/${fd}`, "utf8")) & O_DIRECT) !== 0;
}

/** `flags` in fdinfo are octal (proc_pid_fdinfo(5)). */
function flagsIn(fdinfo: string): number {
  return Number.parseInt(/^flags:\s*([0-7]+)$/m.exec(fdinfo)?.[1] ?? "0", 8);
}

function isSemaphore(folder: string, fd: number): boolean {
  return /^eventfd-semaphore:\s*1$/m.test(readFileSync(`${folder}/fdinfo/${fd}`, "utf8"));
}

/** Whether the first process group of its session is in the foreground of its terminal (criu/tty.c, tty_verify_ctty). */
function leadsForeground(folder: string): boolean {
  const fields = readFileSync(`${folder}/stat`, "utf8")
    .replace(/^.*\) /s, "")
    .split(" ");
  const [, , , session, , foreground] = fields;
  return session === foreground;
}

/**
 * `Pid` in a pidfd's fdinfo is -1 once nobody can wait for the process any more (proc_pid_fdinfo(5)). Until then it is a zombie, which in
 * cgroup v1 has left the container's cgroup: its parent tells whose it is.
 */
function isOutside(folder: string, fd: number, pids: ReadonlySet<number>): boolean {
  const pid = Number(/^Pid:\s*(-?\d+)$/m.exec(readFileSync(`${folder}/fdinfo/${fd}`, "utf8"))?.[1] ?? -1);
  if (pid === -1 || pids.has(pid)) return false;
  let isOurZombie = false;
  unlessGone(() => {
    const { state, parentPid } = parseStatus(readFileSync(path.join(folder, "..", String(pid), "status"), "utf8"));
    isOurZombie = state === ZOMBIE && pids.has(parentPid);
  });
  return !isOurZombie;
}

function readMappings(folder: string, mounts: readonly Mount[]): Mapping[] {
  const seen = new Set<string>();
  const mappings: Mapping[] = [];
  for (const line of parseMaps(readFileSync(`${folder}/maps`, "utf8"))) {
    const key = `${line.device} ${line.inode} ${line.path}`;
    if (line.path === "" || seen.has(key)) continue;
    seen.add(key);
    unlessGone(() => mappings.push(...readMapping(folder, line, mounts)));
  }
  return mappings;
}

function readMapping(folder: string, { start, end, path: target }: MapsEntry, mounts: readonly Mount[]): Mapping[] {
  const address = `0x${start.toString(16)}`;
  if (target === "[uprobes]") return [{ kind: "uprobes", address }];
  const special = /^anon_inode:\[?([^\]]*)/.exec(target) ?? STRANGE.exec(target);
  if (special !== null) return [{ kind: "anonymous-inode", address, type: special[1] ?? "" }];
  if (!target.startsWith("/") || NAMELESS.test(target)) return [];
  const stat = statSync(`${folder}/map_files/${start.toString(16)}-${end.toString(16)}`);
  if (stat.isCharacterDevice() || stat.isBlockDevice()) return target === DEV_ZERO ? [] : [{ kind: "device", address, path: target }];
  const deleted = readDeleted(folder, target, stat, mounts);
  return deleted === undefined ? [] : [{ kind: "deleted", address, file: deleted }];
}

/** Passes over what a process closed, unmapped or left behind by ending while it was read. */
function unlessGone(read: () => void): void {
  try {
    read();
  } catch (error) {
    if (!isGone(error)) throw error;
  }
}

/** Whether `error` says that a process, descriptor or mapping is no more. */
export function isGone(error: unknown): boolean {
  const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
  return cause instanceof Error && "code" in cause && (cause.code === "ENOENT" || cause.code === "ESRCH");
}

/** Of makedev(3). */
function major(device: number): number {
  return Math.floor(device / 256) % 4096;
}

function minor(device: number): number {
  return (device % 256) + Math.floor(device / 0x10_0000) * 256;
}
