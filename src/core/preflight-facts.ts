/**
 * What a preflight knows: facts of a host, facts of a container, and what of the container the target must know.
 *
 * What crosses between hosts (`ContainerNeeds`, `HostFacts`) is a zod schema and its type is read off it; the container's
 * own facts never leave the source.
 */
import * as z from "zod";
import { hostName } from "./ids.ts";

const bytes = z.int().nonnegative();

/** Something that was tried on a host: it works, or this is why not. */
const feature = z.discriminatedUnion("works", [
  /** `version` is for people only; nothing is decided by it. */
  z.object({ works: z.literal(true), version: z.string() }),
  /** `reason` in the tool's own words. */
  z.object({ works: z.literal(false), reason: z.string() }),
]);
export type Feature = z.infer<typeof feature>;

/** First ids and number of ids of a user namespace, as in user_namespaces(7); the container's id 0 is the host's `firstUid`. */
const idMap = z.object({ firstUid: z.int().nonnegative(), firstGid: z.int().nonnegative() });
export type IdMap = z.infer<typeof idMap>;

const port = z.object({ hostAddress: z.string(), hostPort: z.int().min(1).max(65_535), protocol: z.string() });
/** A port of the host that leads into the container. `hostAddress` is `0.0.0.0` or `::` for all. */
export type PublishedPort = z.infer<typeof port>;

const pathKind = z.enum(["file", "directory", "socket", "device", "missing"]);
/** What lies at a path. */
export type PathKind = z.infer<typeof pathKind>;

const volumeContent = z.enum([
  /** There is no such volume, or it is empty. */
  "none",
  /** The volume shows files that lie elsewhere, for both hosts to see. */
  "elsewhere",
  /** What a container left that moved away from here, and took its files along. */
  "left-behind",
  /** Files that somebody may need. */
  "unknown",
]);
/** What is in a volume of the target by the name of one that is to come. */
export type VolumeContent = z.infer<typeof volumeContent>;

const volumeStorage = z.enum(["folder", "bind", "memory", "device", "shared"]);
/**
 * Where a volume's files are: in the folder that the engine made for it, in another folder of the host, in memory, on a device of the host,
 * or where both hosts find them.
 */
export type VolumeStorage = z.infer<typeof volumeStorage>;

/** What the target must know of a container about to come. */
export const containerNeeds = z.object({
  name: z.string(),
  imageBytes: bytes,
  /** The container's own writable layer. */
  writableBytes: bytes,
  /** `device` is what is mounted, "" if nothing is; `bytes` is 0 unless they come along. */
  volumes: z.array(z.object({ name: z.string(), driver: z.string(), storage: volumeStorage, device: z.string(), bytes })),
  /** Paths of the host that are mounted into the container, also by way of a volume. */
  binds: z.array(z.object({ path: z.string(), kind: pathKind })),
  /** Device nodes of the host that the container was given. */
  devices: z.array(z.string()),
  /** Those that somebody made, with the container's addresses on them, without prefix length. */
  networks: z.array(z.object({ name: z.string(), driver: z.string(), addresses: z.array(z.string()) })),
  ports: z.array(port),
  memory: z.object({ residentBytes: bytes, hugePageBytes: bytes, /** 0 if unlimited. */ limitBytes: bytes }),
  /** Processors it may use at once, 0 if unlimited, and which ones, "" if any (cpuset(7), list format). */
  cpus: z.object({ count: z.number().nonnegative(), set: z.string() }),
  logDriver: z.string(),
  idMap: idMap.optional(),
  /** Its ids are the host's wherever it is: --userns=host. */
  hasHostIds: z.boolean(),
});
export type ContainerNeeds = z.infer<typeof containerNeeds>;

/** What a host's Docker Engine has in the place of what a container needs. */
const arrival = z.object({
  /** Id of the container that has the name already. */
  nameTakenBy: z.string().optional(),
  /** What of the image has to come, at most. */
  missingImageBytes: bytes,
  /** In the order of the needs. A network that does not exist will be made. */
  networks: z.array(
    z.object({
      /** In what the existing one differs. */
      differences: z.array(z.string()),
      /** Interface of the host that a missing one would have to be made on, and that is missing too. */
      missingInterface: z.string().optional(),
      /** Addresses of the container that another one has, and its name. */
      taken: z.array(z.object({ address: z.string(), by: z.string() })),
      /** Containers that use it, if it may let none ask for an address. */
      keptBy: z.array(z.string()).optional(),
    }),
  ),
  /** Host ports that are in use, and by whom. */
  portsTaken: z.array(z.object({ port, by: z.string() })),
  /** In the order of the needs. A volume that does not exist will be made. */
  volumes: z.array(z.object({ content: volumeContent, differences: z.array(z.string()), usedBy: z.array(z.string()) })),
  /** Kind of each bind's path on this host, in the order of the needs. */
  binds: z.array(pathKind),
  /** Given devices that are not there. */
  missingDevices: z.array(z.string()),
});
export type Arrival = z.infer<typeof arrival>;

const dockerFacts = z.object({
  reachable: z.literal(true),
  version: z.string(),
  storageDriver: z.string(),
  /** The hierarchy containers live in: cgroups(7). */
  cgroupVersion: z.enum(["1", "2"]),
  /** Whether what is registered as our OCI runtime is that; absent if nothing is. */
  runtime: feature.optional(),
  logDrivers: z.array(z.string()),
  volumeDrivers: z.array(z.string()),
  networkDrivers: z.array(z.string()),
  /** Linux security modules that confine containers: `apparmor`, `selinux`. */
  securityModules: z.array(z.string()),
  /** Where userns-remap puts containers; absent if it is off. */
  idMap: idMap.optional(),
  rootDir: z.string(),
  diskFreeBytes: bytes,
  /** Absent if nothing was asked. */
  arrival: arrival.optional(),
});
export type DockerFacts = z.infer<typeof dockerFacts>;

/** Features of a host, each found by trying or looking. */
export const hostFacts = z.object({
  host: z.string().transform(hostName),
  /** uname(2): for display. */
  kernel: z.string(),
  /** uname(2), like `x86_64`. */
  architecture: z.string(),
  /** proc_cpuinfo(5): `flags` or `Features`. */
  cpuFlags: z.array(z.string()),
  cpuCount: z.int().positive(),
  /** proc_meminfo(5): MemAvailable, and the free huge pages. */
  memoryAvailableBytes: bytes,
  hugePagesFreeBytes: bytes,
  /** Where CRIU's images are put: what a lazy dump can't send later. */
  imageSpace: z.object({ path: z.string(), freeBytes: bytes }),
  /** /proc/sys/fs/pipe-max-size. */
  pipeMaxBytes: bytes,
  /** Whether the agent has CAP_SYS_RESOURCE: capabilities(7). */
  hasSysResource: z.boolean(),
  /** `criu check`. */
  criu: feature,
  /** A dump of a process with a socket: what `criu check` promises is not always so. */
  criuDump: feature,
  /** Those of `CRIU_FEATURES` that `criu check --feature` confirmed. */
  criuFeatures: z.array(z.string()),
  /** An OCI runtime that knows lazy pages. */
  runc: feature,
  /** Where this installation's runtime lies, to be registered with Docker. */
  runtimePath: z.string(),
  /** Who serves the pages of tasks that are restored here: the agent, or the stock `criu lazy-pages`. */
  pageHandler: z.enum(["own", "criu"]),
  /** Packet filters that silence a network namespace. */
  quarantine: feature,
  /** Whether it reaches the host that a container is to come from, by the address in the cluster; absent if nothing was asked. */
  returnPath: feature.optional(),
  docker: z.discriminatedUnion("reachable", [dockerFacts, z.object({ reachable: z.literal(false), reason: z.string() })]),
});
export type HostFacts = z.infer<typeof hostFacts>;

/** What `criu check --feature` is asked: those that some container needs. */
export const CRIU_FEATURES = ["uffd", "uffd-noncoop", "net_diag_raw", "memfd_hugetlb"] as const;
/** One of `CRIU_FEATURES`. */
export type CriuFeature = (typeof CRIU_FEATURES)[number];

/** What the source gathers of a running container. */
export interface ContainerFacts {
  readonly needs: ContainerNeeds;
  /** Why it can't run without other containers of its host: "cause; remedy" each. */
  readonly unmovable: readonly string[];
  /** Addresses that it can't ask for elsewhere, because they are the default network's to give. */
  readonly floatingAddresses: readonly string[];
  /** Running containers that are with it on a bridge network, which ends at its host. */
  readonly neighbours: readonly { readonly network: string; readonly names: readonly string[] }[];
  readonly paused: boolean;
  /** Its cgroup is frozen, but Docker has not paused it. */
  readonly frozen: boolean;
  /** Running containers that live in namespaces of this one, and in which of them: `--network container:` and the like. */
  readonly dependents: readonly { readonly name: string; readonly namespaces: readonly string[] }[];
  /** Name of its OCI runtime. */
  readonly runtime: string;
  /** Who starts it again elsewhere when it ends here, like `Docker Swarm`. */
  readonly orchestrator?: string;
  readonly privileged: boolean;
  /** Driver and count of what `--gpus` asked for. */
  readonly deviceRequests: readonly string[];
  /** Namespaces of the host that it was given instead of its own. */
  readonly hostNamespaces: readonly ("network" | "pid" | "ipc" | "uts")[];
  /** Running containers that use a volume of this one too. */
  readonly volumesShared: readonly { readonly volume: string; readonly with: readonly string[] }[];
  /** Mounts whose content is not copied as files: CRIU has to make them anew. */
  readonly mounts: readonly MountFacts[];
  /** Where files of the host are mounted, which are not copied. */
  readonly bindPaths: readonly string[];
  /** Files in a /dev/shm that other containers may join (`--ipc shareable`): it lies on the host, and they would stay there. */
  readonly shareableFiles: readonly string[];
  /** Multicast addresses that its sockets receive at. */
  readonly multicastGroups: readonly string[];
  /** POSIX message queues, mq_overview(7). */
  readonly messageQueues: readonly string[];
  /** Sets of System V semaphores: sysvipc(7). */
  readonly semaphoreSets: number;
  /** Where watched files of its root lie, by inode number; those that are nowhere are missing. */
  readonly watchedPaths: ReadonlyMap<number, string>;
  /** Inode numbers of the deleted files that have another name in the container's own layer. */
  readonly linkedInodes: readonly number[];
  /** The container's init first, the others in the order of their pids. */
  readonly processes: readonly ProcessFacts[];
}

/** `usedBytes` is 0 unless it is a tmpfs. */
export interface MountFacts {
  readonly path: string;
  readonly type: string;
  /** Whether it shows the whole file system or a part of it. */
  readonly ofRoot: boolean;
  readonly usedBytes: number;
}

/** Namespaces a process can have, as /proc/PID/ns names them. */
export const NAMESPACES = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] as const;
export type Namespace = (typeof NAMESPACES)[number];

/** How a process came into the container: started by its init, by `docker exec`, or as its health check. */
export type Origin = "container" | "exec" | "health-check";

export interface ProcessFacts {
  /** As the agent sees it. */
  readonly pid: number;
  /** As the container sees it. */
  readonly innerPid: number;
  readonly parentPid: number;
  readonly name: string;
  /** Its first user or group id that is not root's in the initial user namespace, like `user 1000`; "" if there is none. */
  readonly foreignId: string;
  /** One letter of proc_pid_stat(5): `T` if any thread is stopped, otherwise that of the main thread. */
  readonly state: string;
  readonly threadCount: number;
  /** The processors that its threads may run on, each list once, like `0-3,8`: cpuset(7), "List format". */
  readonly processors: readonly string[];
  /** Pid of the process that traces one of its threads, 0 if none. */
  readonly tracerPid: number;
  /** A thread has an inheritable capability that its bounding set lacks: capabilities(7). */
  readonly inheritsBeyondBounds: boolean;
  /** A thread waits for a child to start its program or to end: vfork(2). */
  readonly inVfork: boolean;
  /** Its program lies in memory alone: memfd_create(2). */
  readonly isMemfd: boolean;
  /** A POSIX timer signals its main thread, not the process: `SIGEV_THREAD_ID`, timer_create(2). */
  readonly hasMainThreadTimer: boolean;
  /** Pages of its are handled by a userfaultfd: what a migration did not bring along is missing there. */
  readonly lacksMemory: boolean;
  readonly origin: Origin;
  readonly memory: MemoryFacts;
  /** Namespaces that are not those of the container's init. */
  readonly foreignNamespaces: readonly Namespace[];
  readonly descriptors: readonly Descriptor[];
  readonly mappings: readonly Mapping[];
}

/** Of smaps_rollup, proc_pid_smaps(5): what several processes share is counted once over all of them. */
export interface MemoryFacts {
  readonly residentBytes: number;
  readonly anonymousBytes: number;
  /** Without what is copied ahead of the freeze. */
  readonly sharedBytes: number;
  readonly lockedBytes: number;
  readonly hugePageBytes: number;
}

/** A file that has lost its name. */
export interface DeletedFile {
  readonly path: string;
  readonly diskBytes: number;
  /** Above 0: another name is left, or on `overlay` it is a file of the image. */
  readonly linkCount: number;
  /** Type of the file system, "" if it is none of those mounted. */
  readonly fileSystem: string;
  readonly inode: number;
}

/** An open file descriptor that is not just a file, directory, pipe or terminal, or what there is to say of one that is. */
export type Descriptor =
  /** `type` as in `anon_inode:[type]`. */
  | { readonly kind: "anonymous"; readonly fd: number; readonly type: string }
  | { readonly kind: "deleted"; readonly fd: number; readonly file: DeletedFile }
  /** /dev/tty, while another process group than the session's first is in the terminal's foreground: a job, for example. */
  | { readonly kind: "background-terminal"; readonly fd: number }
  /** An eventfd that counts down by one: `EFD_SEMAPHORE`, eventfd(2). */
  | { readonly kind: "eventfd-semaphore"; readonly fd: number }
  /** A pipe that keeps packets apart (`O_DIRECT`, pipe(2)). */
  | { readonly kind: "packet-pipe"; readonly fd: number }
  | {
      readonly kind: "device";
      readonly fd: number;
      readonly path: string;
      readonly block: boolean;
      readonly major: number;
      readonly minor: number;
    }
  | { readonly kind: "socket"; readonly fd: number; readonly socket: Socket }
  /**
   * A file that inotify(7) or fanotify(7) watches and that only its inode number tells of: on `overlay`, or on a file system that is made
   * anew.
   */
  | { readonly kind: "watch"; readonly fd: number; readonly fileSystem: string; readonly inode: number }
  | { readonly kind: "lock"; readonly fd: number }
  /** A database of SQLite, opened for writing, that keeps a rollback journal. `mountPoint` as the process sees it, like `path`. */
  | { readonly kind: "sqlite"; readonly fd: number; readonly path: string; readonly mountPoint: string }
  /** A file in a mount that no process of the container sees. */
  | { readonly kind: "outside-file"; readonly fd: number; readonly path: string }
  /** A pidfd of a process outside of the container. */
  | { readonly kind: "outside-process"; readonly fd: number }
  /** A namespace that no process of the container lives in. */
  | { readonly kind: "outside-namespace"; readonly fd: number; readonly type: string };

export type TcpState = "established" | "syn-sent" | "listen" | "closed" | "closing";

export type Socket =
  /** Addresses without port. */
  | { readonly type: "tcp"; readonly state: TcpState; readonly local: string; readonly remote: string }
  | { readonly type: "udp"; readonly local: string }
  | { readonly type: "raw" }
  | { readonly type: "packet"; readonly interfaceIndex: number }
  | { readonly type: "netlink"; readonly queuedBytes: number; readonly groups: number; readonly portId: number }
  /** `path` is the peer's, "" if it has none; `peerInode` is 0 without a peer. */
  | { readonly type: "unix"; readonly inode: number; readonly peerInode: number; readonly path: string }
  /** `protocol` as the kernel calls it, like `MPTCP`. */
  | { readonly type: "other"; readonly protocol: string };

/** A mapping that is neither anonymous memory nor an ordinary file. `address` as in /proc/PID/maps. */
export type Mapping =
  | { readonly kind: "device"; readonly address: string; readonly path: string }
  | { readonly kind: "anonymous-inode"; readonly address: string; readonly type: string }
  | { readonly kind: "deleted"; readonly address: string; readonly file: DeletedFile }
  | { readonly kind: "uprobes"; readonly address: string };
