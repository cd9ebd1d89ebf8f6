/**
 * Each check of the preflight shown to find what it is for, and nothing else.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { hostName } from "./ids.ts";
import type {
  Arrival,
  ContainerFacts,
  ContainerNeeds,
  DeletedFile,
  Descriptor,
  DockerFacts,
  HostFacts,
  Mapping,
  ProcessFacts,
  Socket,
} from "./preflight-facts.ts";
import type { RequestableMode } from "./migration.ts";
import { CHECK_IDS, examine, type CheckId, type Finding } from "./preflight.ts";

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;

const DOCKER: DockerFacts = {
  reachable: true,
  version: "28.2.2",
  storageDriver: "overlay2",
  cgroupVersion: "2",
  runtime: { works: true, version: "" },
  logDrivers: ["json-file"],
  volumeDrivers: ["local"],
  networkDrivers: ["bridge", "macvlan"],
  securityModules: ["apparmor"],
  rootDir: "/var/lib/docker",
  diskFreeBytes: 50 * GIB,
};

const ARRIVAL: Arrival = {
  missingImageBytes: 100 * MIB,
  networks: [{ differences: [], taken: [] }],
  portsTaken: [],
  volumes: [],
  binds: [],
  missingDevices: [],
};

const HOST: HostFacts = {
  host: hostName("a"),
  kernel: "6.12.0",
  architecture: "x86_64",
  cpuFlags: ["avx2", "fpu", "hypervisor", "sse2"],
  cpuCount: 4,
  memoryAvailableBytes: 8 * GIB,
  hugePagesFreeBytes: 0,
  imageSpace: { path: "/run/dmigrate", freeBytes: GIB },
  pipeMaxBytes: MIB,
  hasSysResource: true,
  criu: { works: true, version: "4.2.1" },
  criuDump: { works: true, version: "" },
  criuFeatures: ["uffd", "uffd-noncoop", "net_diag_raw", "memfd_hugetlb"],
  runc: { works: true, version: "1.3.0" },
  runtimePath: "/opt/dmigrate/dmigrate-runtime",
  pageHandler: "own",
  quarantine: { works: true, version: "" },
  docker: DOCKER,
};

const NEEDS: ContainerNeeds = {
  name: "web",
  imageBytes: 100 * MIB,
  writableBytes: MIB,
  volumes: [],
  binds: [],
  devices: [],
  networks: [{ name: "lan", driver: "macvlan", addresses: ["10.0.0.5"] }],
  ports: [],
  memory: { residentBytes: 600 * MIB, hugePageBytes: 0, limitBytes: 0 },
  cpus: { count: 0, set: "" },
  logDriver: "json-file",
  hasHostIds: false,
};

const PROCESS: ProcessFacts = {
  pid: 4711,
  innerPid: 1,
  parentPid: 4700,
  name: "redis-server",
  foreignId: "user 999",
  state: "S",
  threadCount: 4,
  processors: ["0-3"],
  tracerPid: 0,
  inheritsBeyondBounds: false,
  inVfork: false,
  isMemfd: false,
  hasMainThreadTimer: false,
  lacksMemory: false,
  origin: "container",
  memory: { residentBytes: 600 * MIB, anonymousBytes: 590 * MIB, sharedBytes: 0, lockedBytes: 0, hugePageBytes: 0 },
  foreignNamespaces: [],
  descriptors: [],
  mappings: [],
};

const CONTAINER: ContainerFacts = {
  needs: NEEDS,
  unmovable: [],
  floatingAddresses: [],
  neighbours: [],
  paused: false,
  frozen: false,
  dependents: [],
  runtime: "runc",
  privileged: false,
  deviceRequests: [],
  hostNamespaces: [],
  volumesShared: [],
  mounts: [{ path: "/dev/shm", type: "tmpfs", ofRoot: true, usedBytes: 0 }],
  bindPaths: ["/shared"],
  shareableFiles: [],
  multicastGroups: [],
  messageQueues: [],
  semaphoreSets: 0,
  watchedPaths: new Map(),
  linkedInodes: [],
  processes: [PROCESS],
};

/** What a case changes of two hosts and a container with which nothing is wrong. */
interface Change {
  readonly source?: Partial<HostFacts>;
  readonly target?: Partial<HostFacts>;
  readonly sourceDocker?: Partial<DockerFacts>;
  readonly targetDocker?: Partial<DockerFacts>;
  readonly arrival?: Partial<Arrival>;
  readonly container?: Partial<ContainerFacts>;
  readonly needs?: Partial<ContainerNeeds>;
  readonly process?: Partial<ProcessFacts>;
  readonly descriptor?: Descriptor;
  readonly mapping?: Mapping;
  readonly socket?: Socket;
  readonly mode?: RequestableMode;
}

function examined(change: Change) {
  const source = { ...HOST, docker: { ...DOCKER, ...change.sourceDocker }, ...change.source };
  const arrival = { ...ARRIVAL, ...change.arrival };
  const target = { ...HOST, host: hostName("b"), docker: { ...DOCKER, arrival, ...change.targetDocker }, ...change.target };
  const descriptors = [
    ...(change.descriptor ? [change.descriptor] : []),
    ...(change.socket ? [{ kind: "socket", fd: 7, socket: change.socket } as const] : []),
  ];
  const process = { ...PROCESS, descriptors, mappings: change.mapping ? [change.mapping] : [], ...change.process };
  const container = { ...CONTAINER, needs: { ...NEEDS, ...change.needs }, processes: [process], ...change.container };
  return examine(source, target, container, change.mode);
}

const socketOf = (inode: number, peerInode: number): Descriptor => ({
  kind: "socket",
  fd: 3,
  socket: { type: "unix", inode, peerInode, path: "" },
});
const options = (change: Change): readonly string[] => examined(change).criuOptions;
const deletedFile = { path: "/f", diskBytes: 4096, linkCount: 0, fileSystem: "overlay", inode: 12 };
const deleted = (file: Partial<DeletedFile>): Descriptor => ({ kind: "deleted", fd: 3, file: { ...deletedFile, ...file } });

/** A change, and what is found then: `severity` `check` and a part of the message. */
type Case = readonly [Change, Finding["severity"], CheckId, RegExp];

const tcp = (socket: Partial<Extract<Socket, { type: "tcp" }>>): Socket => ({
  type: "tcp",
  state: "established",
  local: "10.0.0.5",
  remote: "10.0.0.9",
  ...socket,
});
const device = (path: string, major: number, minor: number, block = false): Descriptor => ({
  kind: "device",
  fd: 3,
  path,
  block,
  major,
  minor,
});
const broken = { works: false, reason: "Operation not permitted" } as const;
const unreachable = { reachable: false, reason: "connect ENOENT /run/docker.sock" } as const;
const volume = { name: "data", driver: "local", storage: "folder", device: "", bytes: MIB } as const;
const web = [volume];
const port = { hostAddress: "0.0.0.0", hostPort: 8080, protocol: "tcp" };
const bridge = [{ name: "app", driver: "bridge", addresses: ["172.18.0.2"] }];

const CASES: readonly Case[] = [
  [{ source: { criu: broken } }, "blocker", "criu", /CRIU does not work on a \(kernel 6\.12\.0\): Operation not permitted/],
  [{ target: { criu: broken } }, "blocker", "criu", /on b/],
  [
    { source: { criuDump: { works: false, reason: "Can't get 1:16 opt" } } },
    "blocker",
    "criu-dump",
    /CRIU 4\.2\.1 on a .* Can't get 1:16 opt/,
  ],
  [{ target: { criuFeatures: ["uffd"] } }, "blocker", "lazy-pages", /b .* uffd-noncoop/],
  [{ target: { pageHandler: "criu" }, mode: "pre-copy" }, "blocker", "page-handler", /agent of b leaves restored memory to `criu lazy-p/],
  [{ target: { runc: broken } }, "blocker", "runc", /on b/],
  [{ target: { returnPath: broken } }, "blocker", "return-path", /agent of b does not reach the one of a/],
  [{ target: { docker: unreachable } }, "blocker", "docker", /b does not answer: connect ENOENT/],
  [{ sourceDocker: { storageDriver: "vfs" } }, "blocker", "storage", /a stores containers with vfs/],
  [{ targetDocker: { runtime: undefined } }, "blocker", "runtime", /b does not know the runtime dmigrate/],
  [
    { targetDocker: { runtime: { works: false, reason: "x" } } },
    "blocker",
    "runtime",
    /b has another program as its runtime dmigrate.*: x/,
  ],
  [{ source: { quarantine: broken } }, "blocker", "quarantine", /a can't silence/],
  [{ source: { hasSysResource: false }, process: { foreignId: "" } }, "blocker", "pipe-size", /fs\.pipe-max-size allows 1048576/],
  [
    { source: { hasSysResource: false, pipeMaxBytes: GIB } },
    "blocker",
    "user-ids",
    /redis-server \(pid 1 in the container\) runs as user 999/,
  ],
  [{ target: { architecture: "aarch64" } }, "blocker", "architecture", /b is aarch64, but a is x86_64/],
  [{ target: { cpuFlags: ["fpu", "sse2"] } }, "blocker", "cpu-features", /lacks avx2, which/],
  [{ targetDocker: { cgroupVersion: "1" } }, "blocker", "cgroups", /b uses cgroup v1 and a cgroup v2/],
  [{ targetDocker: { securityModules: [] } }, "blocker", "security-modules", /a confines containers with apparmor, b with none/],
  [
    { needs: { idMap: { firstUid: 100_000, firstGid: 100_000 } } },
    "blocker",
    "id-map",
    /root is user 100000, group 100000 on a: the kernel/,
  ],
  [
    { targetDocker: { idMap: { firstUid: 100_000, firstGid: 100_000 } } },
    "blocker",
    "id-map",
    /root is user 0, group 0 on a, but would be user 100000, group 100000 on b/,
  ],

  [{ container: { paused: true } }, "blocker", "state", /web is paused/],
  [{ container: { frozen: true } }, "blocker", "state", /web is frozen, and not by `docker pause`/],
  [
    { container: { dependents: [{ name: "sidecar", namespaces: ["network", "ipc"] }] } },
    "blocker",
    "dependencies",
    /Container sidecar lives in this one's network and ipc namespace/,
  ],
  [{ container: { orchestrator: "Docker Swarm" } }, "blocker", "state", /Docker Swarm/],
  [
    { container: { unmovable: ["It shares the network namespace of container 12, which stays; give it its own"] } },
    "blocker",
    "dependencies",
    /^It shares .* stays$/,
  ],
  [{ container: { runtime: "runsc" } }, "blocker", "oci-runtime", /runsc/],
  [{ container: { privileged: true } }, "warning", "privileges", /privileged/],
  [{ container: { hostNamespaces: ["network"] } }, "blocker", "namespaces", /network namespace of a/],
  [{ container: { hostNamespaces: ["uts"] } }, "warning", "namespaces", /has the name of a .*has that of b/],
  [{ process: { origin: "health-check", foreignNamespaces: ["time"] } }, "warning", "outside-processes", /health check/],
  [{ process: { foreignNamespaces: ["pid", "mnt"] } }, "blocker", "namespaces", /redis-server .* a pid namespace of its own/],
  [{ process: { origin: "exec" } }, "blocker", "outside-processes", /redis-server .* came in by `docker exec`/],
  [{ process: { origin: "health-check" } }, "warning", "outside-processes", /health check in flight/],
  [{ process: { tracerPid: 12 } }, "blocker", "stopped", /traced by pid 12/],
  [{ process: { state: "T" } }, "blocker", "stopped", /redis-server .* is stopped/],
  [{ process: { inheritsBeyondBounds: true } }, "blocker", "credentials", /redis-server .* bounding set lacks/],
  [{ process: { isMemfd: true } }, "blocker", "programs", /program of redis-server .* in memory alone/],
  [{ process: { hasMainThreadTimer: true } }, "blocker", "timers", /redis-server .* signals its main thread/],
  [{ process: { lacksMemory: true } }, "blocker", "missing-memory", /redis-server .* lacks memory that has not come along/],
  [{ process: { inVfork: true } }, "warning", "vfork", /redis-server .* waits in vfork/],
  [{ process: { state: "Z" } }, "blocker", "stopped", /main thread of redis-server/],
  [
    { descriptor: { kind: "anonymous", fd: 7, type: "io_uring" } },
    "blocker",
    "descriptors",
    /redis-server \(pid 1 in the container\) has an io_uring \(fd 7\)/,
  ],
  [{ descriptor: { kind: "outside-file", fd: 0, path: "/null" } }, "blocker", "descriptors", /holds \/null of a mount outside .*fd 0/],
  [{ descriptor: { kind: "outside-process", fd: 5 } }, "blocker", "descriptors", /process outside of the container \(fd 5\)/],
  [{ descriptor: { kind: "outside-namespace", fd: 5, type: "net" } }, "blocker", "descriptors", /a net namespace in which no process/],
  [{ descriptor: { kind: "watch", fd: 6, fileSystem: "overlay", inode: 42 } }, "blocker", "watches", /inode 42, fd 6/],
  [
    { descriptor: { kind: "watch", fd: 6, fileSystem: "proc", inode: 42 }, container: { watchedPaths: new Map([[42, "/w"]]) } },
    "blocker",
    "watches",
    /on proc/,
  ],
  [{ descriptor: device("/dev/fuse", 10, 229) }, "blocker", "open-devices", /\/dev\/fuse open \(fd 3\)/],
  [{ descriptor: device("/dev/sda", 1, 0, true) }, "blocker", "open-devices", /\/dev\/sda/],
  [
    { mapping: { kind: "device", address: "0x7f00", path: "/dev/nvidia0" } },
    "blocker",
    "open-devices",
    /\/dev\/nvidia0 in its memory \(at 0x7f00\)/,
  ],
  [{ descriptor: deleted({ path: "/log", diskBytes: GIB }) }, "warning", "deleted-files", /\/log \(fd 3\), deleted but still 1\.0 GiB/],
  [
    { descriptor: deleted({ linkCount: 1 }), container: { linkedInodes: [12] } },
    "blocker",
    "deleted-files",
    /\/f \(fd 3\), deleted while another hard link/,
  ],
  [{ descriptor: deleted({ linkCount: 1, fileSystem: "ext4" }) }, "blocker", "deleted-files", /another hard link of it is left/],
  [
    { mapping: { kind: "deleted", address: "0x7f00", file: { ...deletedFile, linkCount: 1, fileSystem: "ext4" } } },
    "blocker",
    "deleted-files",
    /\/f \(at 0x7f00\)/,
  ],
  [
    { descriptor: { kind: "sqlite", fd: 5, path: "/data/x.db", mountPoint: "/data" } },
    "blocker",
    "sqlite",
    /SQLite database \/data\/x\.db open \(fd 5\).*inode numbers/,
  ],
  [{ socket: { type: "other", protocol: "AF_VSOCK" } }, "blocker", "sockets", /protocol AF_VSOCK.*\(fd 7\)/],
  [{ socket: { type: "other", protocol: "MPTCP" } }, "blocker", "sockets", /Multipath TCP/],
  [{ socket: { type: "packet", interfaceIndex: 8 } }, "blocker", "sockets", /packet socket on interface 8/],
  [{ socket: { type: "netlink", queuedBytes: 320, groups: 1, portId: 5 } }, "blocker", "sockets", /netlink socket with 320 bytes unread/],
  [{ socket: { type: "netlink", queuedBytes: 0, groups: 1, portId: 0 } }, "blocker", "sockets", /groups but no address/],
  [
    { socket: { type: "unix", inode: 1, peerInode: 2, path: "/run/docker.sock" } },
    "blocker",
    "sockets",
    /outside of the container, at \/run\/docker\.sock/,
  ],
  [
    { socket: { type: "raw" }, target: { criuFeatures: ["uffd", "uffd-noncoop"] } },
    "blocker",
    "sockets",
    /raw socket \(fd 7\); the kernel of b/,
  ],
  [{ mapping: { kind: "anonymous-inode", address: "0x7f00", type: "io_uring" } }, "blocker", "mappings", /an io_uring in its memory/],
  [{ mapping: { kind: "uprobes", address: "0x7f00" } }, "blocker", "mappings", /probes of a tracing tool/],
  [
    {
      needs: { memory: { ...NEEDS.memory, hugePageBytes: MIB } },
      target: { criuFeatures: ["uffd", "uffd-noncoop"], hugePagesFreeBytes: GIB },
    },
    "blocker",
    "huge-pages",
    /CRIU on b can't handle/,
  ],
  [
    { container: { mounts: [{ path: "/mnt", type: "fuse.sshfs", ofRoot: true, usedBytes: 0 }] } },
    "blocker",
    "mounts",
    /fuse\.sshfs is mounted at \/mnt/,
  ],
  [{ container: { shareableFiles: ["buffers"] } }, "blocker", "shareable-files", /stay behind.*buffers/],
  [{ descriptor: { kind: "packet-pipe", fd: 7 } }, "blocker", "descriptors", /a pipe in packet mode \(fd 7\)/],
  [{ descriptor: { kind: "eventfd-semaphore", fd: 7 } }, "blocker", "descriptors", /an eventfd in semaphore mode \(fd 7\)/],
  [{ descriptor: { kind: "background-terminal", fd: 10 } }, "blocker", "descriptors", /its terminal open \(fd 10\)/],
  [{ process: { processors: ["0-3", "0,2"] } }, "warning", "processors", /threads bound to processors 0,2, which/],
  [{ container: { multicastGroups: ["239.1.2.3"] } }, "warning", "multicast", /\(239\.1\.2\.3\)/],
  [{ container: { messageQueues: ["jobs"] } }, "blocker", "message-queues", /jobs/],
  [{ container: { semaphoreSets: 2 } }, "warning", "semaphores", /2 sets of System V semaphores.*SEM_UNDO/],
  [{ process: { memory: { ...PROCESS.memory, sharedBytes: 125 * 1000 * 1000 } } }, "warning", "frozen-memory", /119 MiB .* about 625 ms/],
  [
    { container: { mounts: [{ path: "/dev/shm", type: "tmpfs", ofRoot: true, usedBytes: 100 * 1000 * 1000 }] } },
    "warning",
    "frozen-memory",
    /95\.4 MiB .* about 500 ms/,
  ],

  [{ arrival: { nameTakenBy: "8a0dc61808d91d18" } }, "blocker", "name", /b has a container named web already \(8a0dc61808d9\)/],
  [{ target: { memoryAvailableBytes: 500 * MIB } }, "blocker", "memory", /uses 600 MiB of memory; b has 500 MiB/],
  [{ needs: { memory: { ...NEEDS.memory, limitBytes: 64 * GIB } } }, "warning", "memory", /may grow to 64\.0 GiB/],
  [{ needs: { memory: { ...NEEDS.memory, hugePageBytes: MIB } } }, "blocker", "memory", /huge pages; b has 0 bytes free/],
  [{ targetDocker: { diskFreeBytes: 100 * MIB } }, "blocker", "disk", /take 101 MiB; b has 100 MiB free at \/var\/lib\/docker/],
  [
    { source: { imageSpace: { path: "/run/dmigrate", freeBytes: MIB } } },
    "blocker",
    "image-space",
    /a has 1\.0 MiB free at \/run\/dmigrate/,
  ],
  [{ needs: { cpus: { count: 8, set: "" } } }, "blocker", "cpus", /given 8 processors; b has 4/],
  [{ needs: { cpus: { count: 0, set: "0-1,5" } } }, "blocker", "cpus", /bound to processors 0-1,5; b has 0-3/],
  [
    { arrival: { networks: [{ differences: ["driver is bridge instead of macvlan"], taken: [] }] } },
    "blocker",
    "networks",
    /lan of b differs .* driver is bridge/,
  ],
  [{ arrival: { networks: [{ differences: [], missingInterface: "eth1", taken: [] }] } }, "blocker", "networks", /b has no interface eth1/],
  [
    { arrival: { networks: [{ differences: [], taken: [{ address: "10.0.0.5", by: "db" }] }] } },
    "blocker",
    "networks",
    /10\.0\.0\.5, is taken by db/,
  ],
  [{ targetDocker: { networkDrivers: ["bridge"] } }, "blocker", "networks", /driver macvlan, which b lacks/],
  [
    { arrival: { networks: [{ differences: [], taken: [], keptBy: ["db", "proxy"] }] } },
    "warning",
    "networks",
    /of b, which db, proxy uses, may have been made without --subnet/,
  ],
  [
    { container: { neighbours: [{ network: "app", names: ["db", "proxy", "queue", "worker"] }] } },
    "warning",
    "networks",
    /^db, proxy, queue and 1 more on network app of a will not reach the container/,
  ],
  [
    { needs: { networks: bridge }, socket: tcp({ local: "172.18.0.2" }) },
    "warning",
    "networks",
    /1 connection through network app will break/,
  ],
  [{ container: { floatingAddresses: ["172.17.0.2"] } }, "warning", "networks", /gets another address/],
  [
    {
      container: { floatingAddresses: ["172.17.0.2"] },
      needs: { networks: [] },
      socket: { type: "udp", local: "172.17.0.2" },
    },
    "blocker",
    "networks",
    /1 socket of the container use its address/,
  ],
  [{ arrival: { portsTaken: [{ port, by: "container proxy" }] } }, "blocker", "ports", /Port 8080\/tcp of b.* container proxy/],
  [{ needs: { ports: [port] } }, "warning", "ports", /through 8080\/tcp of a lose their connections/],
  [
    { needs: { volumes: web }, arrival: { volumes: [{ content: "left-behind", differences: [], usedBy: ["db"] }] } },
    "blocker",
    "volumes",
    /data exists on b and is used by db/,
  ],
  [
    {
      needs: { volumes: web },
      arrival: { volumes: [{ content: "unknown", differences: ["driver is nfs instead of local"], usedBy: [] }] },
    },
    "blocker",
    "volumes",
    /nfs/,
  ],
  [
    { needs: { volumes: web }, arrival: { volumes: [{ content: "unknown", differences: [], usedBy: [] }] } },
    "blocker",
    "volumes",
    /data exists on b and holds files that did not move away/,
  ],
  [
    { needs: { volumes: web }, arrival: { volumes: [{ content: "left-behind", differences: [], usedBy: [] }] } },
    "warning",
    "volumes",
    /will be replaced/,
  ],
  [{ needs: { volumes: web }, targetDocker: { volumeDrivers: [] } }, "blocker", "volumes", /volume driver local, which b lacks/],
  [{ needs: { volumes: [{ ...volume, storage: "memory" }] } }, "blocker", "volumes", /data is in memory of a: its files would be lost/],
  [{ needs: { volumes: [{ ...volume, storage: "device", device: "/dev/sdb" }] } }, "blocker", "volumes", /data mounts \/dev\/sdb of a/],
  [{ container: { volumesShared: [{ volume: "data", with: ["worker"] }] } }, "blocker", "volumes", /data is shared with worker/],
  [
    { needs: { binds: [{ path: "/srv", kind: "directory" }] }, arrival: { binds: ["missing"] } },
    "blocker",
    "binds",
    /\/srv, a directory .* is missing on b/,
  ],
  [{ needs: { binds: [{ path: "/srv", kind: "directory" }] }, arrival: { binds: ["file"] } }, "blocker", "binds", /is a file on b/],
  [
    { needs: { binds: [{ path: "/srv", kind: "directory" }] }, arrival: { binds: ["directory"] } },
    "warning",
    "binds",
    /nothing of it is copied/,
  ],
  [{ arrival: { missingDevices: ["/dev/ttyUSB0"] } }, "blocker", "devices", /\/dev\/ttyUSB0, .* missing on b/],
  [{ container: { deviceRequests: ["all GPU devices"] } }, "blocker", "devices", /all GPU devices/],
  [{ needs: { logDriver: "loki" } }, "blocker", "log-driver", /loki, which b lacks/],
];

describe("examine", () => {
  test("passes two hosts and a container with which nothing is wrong, a line for each check", () => {
    const { findings, passed, criuOptions } = examined({});
    assert.deepEqual(findings, []);
    assert.equal(passed.length, CHECK_IDS.length);
    assert.deepEqual(criuOptions, []);
  });

  for (const [change, severity, check, message] of CASES) {
    test(`finds with ${check}: ${message.source}`, () => {
      const { findings, passed } = examined(change);
      const found = findings.filter((finding) => finding.check === check);
      assert.ok(
        found.some((finding) => finding.severity === severity && message.test(finding.message)),
        `found ${JSON.stringify(findings, undefined, 2)}`,
      );
      for (const { remedy } of findings) assert.match(remedy, /\w/);
      assert.ok(passed.length < CHECK_IDS.length);
    });
  }

  test("the log driver none is every engine's, though no engine lists it", () => {
    assert.deepEqual(examined({ needs: { logDriver: "none" } }).findings, []);
  });

  test("every check is shown to find something, and nothing but what was changed", () => {
    const shown = new Set(CASES.map(([, , check]) => check));
    assert.deepEqual(
      CHECK_IDS.filter((id) => !shown.has(id)),
      [],
    );
    for (const [change, , check] of CASES) {
      const others = examined(change).findings.filter((finding) => finding.check !== check);
      assert.deepEqual(others, [], check);
    }
  });

  test("a target with the stock daemon is refused by pre-copy alone, and keeps nothing that is copied ahead", () => {
    for (const mode of ["auto", "warm", "post-copy", "stop-and-copy"] as const) {
      const { findings, keepsAhead } = examined({ target: { pageHandler: "criu" }, mode });
      assert.deepEqual([findings, keepsAhead], [[], false]);
    }
  });

  test("a host is named where the finding is about a host", () => {
    const { findings } = examined({ source: { criu: broken }, target: { runc: broken }, container: { paused: true } });
    assert.deepEqual(
      findings.map(({ check, host }) => [check, host]),
      [
        ["criu", "a"],
        ["runc", "b"],
        ["state", undefined],
      ],
    );
  });

  test("without the target's engine, its place for the container stays unexamined", () => {
    const { findings, passed } = examined({ target: { docker: unreachable } });
    assert.deepEqual(
      findings.map(({ check }) => check),
      ["docker"],
    );
    assert.ok(!passed.some((line) => line.includes("The name web is free")));
  });

  test("what has to cross before the freeze is known", () => {
    const volumes = [{ ...volume, bytes: 5 * MIB }];
    const change: Change = { needs: { volumes }, arrival: { volumes: [{ content: "none", differences: [], usedBy: [] }] } };
    assert.equal(examined(change).copyBytes, (100 + 5) * MIB + NEEDS.writableBytes);
  });

  test("what is harmless passes", () => {
    const harmless: Change[] = [
      ...["eventfd", "eventpoll", "inotify", "timerfd", "signalfd", "pidfd"].map((type) => ({
        descriptor: { kind: "anonymous", fd: 3, type } as const,
      })),
      { container: { mounts: [{ path: "/dev/shm", type: "tmpfs", ofRoot: true, usedBytes: 4 * MIB }] } },
      { descriptor: device("/dev/null", 1, 3) },
      { descriptor: deleted({}) },
      { descriptor: { kind: "sqlite", fd: 5, path: "/shared/x.db", mountPoint: "/shared" } },
      { descriptor: deleted({ linkCount: 1 }) },
      { descriptor: deleted({ linkCount: 1, fileSystem: "tmpfs" }) },
      { descriptor: device("/dev/pts/0", 136, 0) },
      { socket: tcp({}) },
      { socket: { type: "raw" } },
      { socket: { type: "packet", interfaceIndex: 1 } },
      { socket: { type: "netlink", queuedBytes: 0, groups: 1, portId: 5 } },
      { process: { state: "Z", threadCount: 1 } },
      { process: { foreignNamespaces: ["mnt"] } },
      { target: { cpuFlags: ["avx2", "avx512f", "fpu", "sse2"] } },
      { container: { mounts: [{ path: "/proc/kcore", type: "ext4", ofRoot: false, usedBytes: 0 }] } },
      { needs: { hasHostIds: true }, targetDocker: { idMap: { firstUid: 100_000, firstGid: 100_000 } } },
      { source: { hasSysResource: false, pipeMaxBytes: 4 * MIB }, target: { hasSysResource: false }, process: { foreignId: "" } },
    ];
    for (const change of harmless) assert.deepEqual(examined(change).findings, [], JSON.stringify(change));
  });

  test("what a process that came in by `docker exec` holds from outside is not told: it has to end anyway", () => {
    const descriptor = { kind: "outside-file", fd: 0, path: "/null" } as const;
    for (const origin of ["exec", "health-check"] as const) {
      const { findings } = examined({ process: { origin }, descriptor });
      assert.deepEqual(
        findings.map(({ check }) => check),
        ["outside-processes"],
      );
    }
  });

  test("a socket whose peer another process of the container holds is no connection to the outside", () => {
    const processes = [
      { ...PROCESS, descriptors: [socketOf(1, 2)] },
      { ...PROCESS, descriptors: [socketOf(2, 1)] },
    ];
    assert.deepEqual(examined({ container: { processes } }).findings, []);
  });
});

describe("the CRIU options found", () => {
  test("a deleted file raises the limit on such files, with room to grow", () => {
    assert.deepEqual(options({ descriptor: deleted({}) }), ["ghost-limit 2097152"]);
    assert.deepEqual(options({ descriptor: deleted({ diskBytes: 10 * MIB }) }), ["ghost-limit 20971520"]);
  });

  test("a deleted file with another name needs a link", () => {
    assert.deepEqual(options({ descriptor: deleted({ linkCount: 1 }) }), ["link-remap", "ghost-limit 2097152"]);
    assert.deepEqual(options({ mapping: { kind: "deleted", address: "0x0", file: { ...deletedFile, linkCount: 1 } } }), [
      "link-remap",
      "ghost-limit 2097152",
    ]);
  });

  test("connections that a listener has not accepted must not fail the dump", () => {
    assert.deepEqual(options({ socket: tcp({ state: "listen" }) }), ["skip-in-flight"]);
    assert.deepEqual(options({ socket: tcp({}) }), []);
  });

  test("locks are kept", () => {
    assert.deepEqual(options({ descriptor: { kind: "lock", fd: 3 } }), ["file-locks"]);
  });

  test("watched files are looked for where they are, but not twice and not everywhere", () => {
    const watchedPaths = new Map([
      [1, "/srv/app/log"],
      [2, "/srv/app"],
      [3, "/"],
      [4, "/srv/application"],
    ]);
    assert.deepEqual(options({ container: { watchedPaths } }), ["irmap-scan-path /srv/app", "irmap-scan-path /srv/application"]);
  });
});

test("docs/preflight.md names every check, and nothing else", () => {
  const text = readFileSync(new URL("../../docs/preflight.md", import.meta.url), "utf8");
  assert.deepEqual(new Set([...text.matchAll(/^\| `([a-z-]+)` \|/gm)].map(([, id]) => id)), new Set(CHECK_IDS));
});
