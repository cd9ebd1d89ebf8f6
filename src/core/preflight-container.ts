/**
 * Checks of the running container itself: whether everything its processes hold can be dumped and restored.
 *
 * What can't is read off CRIU's sources: criu/files.c (descriptors), sk-*.c (sockets), proc_parse.c (mappings), mount.c and
 * filesystems.c (mounts), seize.c and cr-dump.c (processes), namespaces.c.
 */
import { frozenMs } from "./prediction.ts";
import { cpusIn, frozenBytes } from "./preflight-arrival.ts";
import { blocker, count, fds, nameOf, size, warning, type Check, type Problem } from "./preflight-check.ts";
import type { ContainerFacts, DeletedFile, Descriptor, Namespace, ProcessFacts, Socket } from "./preflight-facts.ts";
import { missingFeatures, RUNTIME } from "./preflight-hosts.ts";

const RUNTIMES = new Set(["runc", "io.containerd.runc.v2", RUNTIME]);

/** Anonymous inodes that CRIU dumps. */
const ANONYMOUS = new Set(["eventfd", "eventpoll", "inotify", "fanotify", "signalfd", "timerfd", "pidfd"]);

/** What to do about those it does not. */
const ANONYMOUS_REMEDIES: Readonly<Record<string, string>> = {
  io_uring: "turn io_uring off in the application",
  userfaultfd: "turn off what handles page faults in the application (a garbage collector, a sandbox)",
  perf_event: "stop the profiler",
  "bpf-prog": "stop what loaded the BPF program",
  "bpf-map": "stop what loaded the BPF program",
};

const MEM_MAJOR = 1;
const TTY_MAJORS = new Set([4, 5, ...range(136, 143)]);

/** File systems that CRIU makes anew, most of them with what is in them. */
const FILE_SYSTEMS = new Set(
  "proc sysfs devtmpfs binfmt_misc tmpfs devpts pstore mqueue securityfs fusectl debugfs tracefs cgroup cgroup2 autofs".split(" "),
);

/** Every network namespace has its loopback interface there; what other interfaces are numbered changes from host to host. */
const LOOPBACK_INDEX = 1;

/** Below this, a deleted file that crosses in the freeze is not worth a word; below that time, all that crosses in it. */
const FROZEN_BYTES_TOLD = 32 * 1024 * 1024;
const FROZEN_MS_TOLD = 250;

export const containerChecks = {
  state: {
    passed: () => "The container runs",
    *find({ container }) {
      const { name } = container.needs;
      if (container.paused) yield blocker(`${name} is paused`, `run \`docker unpause ${name}\``);
      if (container.frozen) {
        yield blocker(
          `${name} is frozen, and not by \`docker pause\`: a migration may have left it so`,
          "see `dmigrate list`; `dmigrate report ID` of its last migration says whose it is and what to do",
        );
      }
      if (container.orchestrator !== undefined) {
        yield blocker(
          `${name} belongs to ${container.orchestrator}, which would start another one when it leaves`,
          `move it with ${container.orchestrator}, or run it on its own`,
        );
      }
    },
  },
  dependencies: {
    passed: () => "The container can run without the other containers of its host",
    *find({ container }) {
      for (const reason of container.unmovable) {
        const [cause = reason, remedy = "let it stand on its own"] = reason.split("; ");
        yield blocker(cause, remedy);
      }
      for (const { name, namespaces } of container.dependents) {
        yield blocker(
          `Container ${name} lives in this one's ${namespaces.join(" and ")} namespace, and would be cut off`,
          `stop ${name}, or give it a namespace of its own`,
        );
      }
    },
  },
  "oci-runtime": {
    passed: (s) => `The container runs under ${s.container.runtime}`,
    *find({ container }) {
      if (RUNTIMES.has(container.runtime)) return;
      yield blocker(`The container runs under ${container.runtime}, whose containers CRIU can't dump`, "run it under runc");
    },
  },
  privileges: {
    passed: () => "The container is not privileged",
    *find({ container, target }) {
      if (!container.privileged) return;
      yield warning(
        `The container is privileged: it may hold what belongs to the host, and it will see the devices of ${target.host}`,
        "run it with --cap-add and --device for what it needs",
      );
    },
  },
  namespaces: {
    passed: () => "Every process lives in the container's own namespaces",
    find: ({ container, source, target }) => findNamespaces(container, source.host, target.host),
  },
  "outside-processes": {
    passed: (s) => `Every process (${s.container.processes.length}) descends from the container's init`,
    *find({ container: { processes } }) {
      for (const process of processes) {
        switch (process.origin) {
          case "container":
            break;
          case "exec":
            yield blocker(
              `${nameOf(process)} came in by \`docker exec\` and has no parent in the container`,
              "end it, or wait until it ends",
            );
            break;
          case "health-check":
            yield warning(`${nameOf(process)} is a health check in flight`, "nothing: the migration waits until it ends");
            break;
        }
      }
    },
  },
  stopped: {
    passed: () => "No process is stopped or traced",
    *find({ container: { processes } }) {
      for (const process of processes) {
        if (process.tracerPid !== 0) {
          yield blocker(
            `${nameOf(process)} is traced by pid ${process.tracerPid}; CRIU has to trace it itself`,
            "end the debugger or tracer",
          );
        } else if (process.state === "T") {
          yield blocker(`${nameOf(process)} is stopped, which would hang CRIU`, `let it go on: \`kill -CONT ${process.pid}\``);
        } else if (process.state === "Z" && process.threadCount > 1) {
          yield blocker(`The main thread of ${nameOf(process)} has ended while others run, which CRIU can't dump`, "restart the container");
        }
      }
    },
  },
  credentials: {
    passed: () => "Every thread's capabilities can be restored",
    *find({ container: { processes } }) {
      for (const process of processes) {
        if (!process.inheritsBeyondBounds) continue;
        yield blocker(
          `${nameOf(process)} has inheritable capabilities that its bounding set lacks, which CRIU can't restore`,
          "let it drop its inheritable capabilities (capset), or start it again without them",
        );
      }
    },
  },
  programs: {
    passed: () => "Every program lies in a file",
    *find({ container: { processes } }) {
      for (const process of processes) {
        if (!process.isMemfd) continue;
        yield blocker(`The program of ${nameOf(process)} lies in memory alone (memfd), which CRIU can't restore`, "start it from a file");
      }
    },
  },
  timers: {
    passed: () => "No timer signals a main thread alone",
    *find({ container: { processes } }) {
      for (const process of processes) {
        if (!process.hasMainThreadTimer) continue;
        yield blocker(
          `${nameOf(process)} has a timer that signals its main thread (SIGEV_THREAD_ID), which CRIU can't dump`,
          "let it delete the timer: a profiler, for example, while it is on",
        );
      }
    },
  },
  "missing-memory": {
    passed: () => "No process lacks memory that an earlier migration did not bring along",
    *find({ container: { processes, needs } }) {
      for (const process of processes) {
        const isOwn = process.descriptors.some((each) => each.kind === "anonymous" && each.type === "userfaultfd"); // told as such
        if (!process.lacksMemory || isOwn) continue;
        yield blocker(
          `${nameOf(process)} lacks memory that has not come along from the host it ran on before: it would be lost for good`,
          `wait, if that migration goes on (\`dmigrate list\`); otherwise \`docker restart ${needs.name}\` starts it anew without`,
        );
      }
    },
  },
  vfork: {
    passed: () => "No process is about to start another program",
    *find({ container: { processes } }) {
      for (const process of processes) {
        if (!process.inVfork) continue;
        yield warning(
          `${nameOf(process)} waits in vfork() for its child to start a program or to end; until then CRIU can't dump it`,
          "none needed if that is a matter of moments; otherwise end the child",
        );
      }
    },
  },
  descriptors: {
    passed: () => "Every open descriptor is of a kind that CRIU dumps",
    *find({ container: { processes } }) {
      for (const process of processes) {
        yield* findAnonymous(process);
        yield* findUnknownToCriu(process);
        yield* findOutside(process);
      }
    },
  },
  watches: {
    passed: () => "Every watched file can be found again",
    *find({ container: { processes, watchedPaths } }) {
      for (const process of processes) {
        for (const watch of process.descriptors) {
          if (watch.kind !== "watch" || (watch.fileSystem === "overlay" && watchedPaths.has(watch.inode))) continue;
          yield blocker(
            `${nameOf(process)} watches a file on ${watch.fileSystem} that can't be found again (inode ${watch.inode}, ${fds([watch])})`,
            "turn file watching (inotify, fanotify) off in the application",
          );
        }
      }
    },
  },
  "open-devices": {
    passed: () => "No process has a device open that belongs to the host",
    *find({ container: { processes } }) {
      for (const process of processes) {
        for (const device of process.descriptors) {
          if (device.kind !== "device" || isHarmless(device)) continue;
          yield blocker(
            `${nameOf(process)} has ${device.path} open (${fds([device])}): what is in a device can't be moved`,
            "close it, or run the container without that device",
          );
        }
        for (const mapping of process.mappings) {
          if (mapping.kind !== "device") continue;
          yield blocker(
            `${nameOf(process)} has ${mapping.path} in its memory (at ${mapping.address})`,
            "run the container without that device",
          );
        }
      }
    },
  },
  "deleted-files": {
    passed: () => "No file is open that has been deleted and is large or has another name",
    *find({ container }) {
      for (const process of container.processes) {
        for (const { file, where } of deletedFiles(process)) {
          if (isLinkLeft(file, container.linkedInodes)) {
            yield blocker(
              `${nameOf(process)} holds ${file.path} (${where}), deleted while another hard link of it is left: ` +
                "CRIU restores it by a helper link, which does not reach the target",
              `let the process open its files again, or remove the other links (\`find / -inum ${file.inode}\` in the container)`,
            );
          }
          if (file.diskBytes < FROZEN_BYTES_TOLD) continue;
          yield warning(
            `${nameOf(process)} holds ${file.path} (${where}), deleted but still ${size(file.diskBytes)}: it crosses in the freeze`,
            "let the process close it: restart it, or make it open its files again",
          );
        }
      }
    },
  },
  sqlite: {
    passed: () => "No SQLite database is open that could not be written to afterwards",
    *find({ container: { processes, bindPaths } }) {
      for (const process of processes) {
        for (const descriptor of process.descriptors) {
          if (descriptor.kind !== "sqlite" || bindPaths.includes(descriptor.mountPoint)) continue;
          yield blocker(
            `${nameOf(process)} has the SQLite database ${descriptor.path} open (${fds([descriptor])}), which has a rollback journal: ` +
              "files get other inode numbers on the target, and SQLite refuses to write to it then until it is opened again",
            "let it keep a write-ahead log instead (`PRAGMA journal_mode=WAL`, once), or migrate while the database is closed",
          );
        }
      }
    },
  },
  sockets: {
    passed: () => "Every socket is of a kind that CRIU dumps",
    *find({ container: { processes }, source, target }) {
      const inodes = unixInodes(processes);
      for (const process of processes) {
        for (const { fd, socket } of socketsOf(process)) {
          const what = `${nameOf(process)} has a`;
          const problem = describeSocket(socket, inodes);
          if (problem !== undefined) yield blocker(`${what} ${problem.what} (fd ${fd})`, problem.remedy);
          if (socket.type !== "raw") continue;
          for (const host of [source, target].filter((each) => each.criu.works && missingFeatures(each, ["net_diag_raw"]).length > 0)) {
            yield blocker(
              `${what} raw socket (fd ${fd}); the kernel of ${host.host} lacks what CRIU needs for it`,
              "run a kernel with CONFIG_INET_RAW_DIAG, or close the socket",
              host.host,
            );
          }
        }
      }
    },
  },
  mappings: {
    passed: () => "Every mapping is of a kind that CRIU dumps",
    find: ({ container }) => findMappings(container),
  },
  "huge-pages": {
    passed: () => "Huge pages can be restored, or there are none",
    *find({ container: { needs }, source, target }) {
      if (needs.memory.hugePageBytes === 0) return;
      for (const host of [source, target].filter((each) => each.criu.works && missingFeatures(each, ["memfd_hugetlb"]).length > 0)) {
        yield blocker(
          `The container uses huge pages, which CRIU on ${host.host} can't handle`,
          "run a kernel with memfd_create(MFD_HUGETLB), or turn huge pages off in the application",
          host.host,
        );
      }
    },
  },
  processors: {
    passed: () => "No thread is bound to certain processors",
    *find({ container: { processes, needs }, source }) {
      const given = needs.cpus.set === "" ? source.cpuCount : cpusIn(needs.cpus.set).size;
      for (const process of processes) {
        const bound = process.processors.filter((list) => cpusIn(list).size < given);
        if (bound.length === 0) continue;
        yield warning(
          `${nameOf(process)} has threads bound to processors ${bound.join(" and ")}, which CRIU does not restore: they will run on any`,
          "let the application bind them again (sched_setaffinity, taskset), or bind the container instead (--cpuset-cpus)",
        );
      }
    },
  },
  multicast: {
    passed: () => "No socket receives at a multicast address",
    *find({ container: { multicastGroups } }) {
      if (multicastGroups.length === 0) return;
      yield warning(
        `Sockets of the container have joined multicast groups (${multicastGroups.join(", ")}), which CRIU does not restore`,
        "let the application join them again on the target, or restart it there",
      );
    },
  },
  mounts: {
    passed: () => "Every mount can be made again",
    *find({ container: { mounts } }) {
      for (const { path, type, ofRoot } of mounts) {
        if (!ofRoot || FILE_SYSTEMS.has(type)) continue;
        yield blocker(
          `${type} is mounted at ${path} from within the container`,
          `unmount it (\`umount ${path}\` in the container), or mount it with \`docker run --mount\``,
        );
      }
    },
  },
  "shareable-files": {
    passed: () => "No file lies in a /dev/shm that is shared with other containers",
    *find({ container: { shareableFiles, needs } }) {
      if (shareableFiles.length === 0) return;
      yield blocker(
        `Files in /dev/shm would stay behind, for other containers may share it (--ipc shareable): ${shareableFiles.join(", ")}`,
        `run ${needs.name} with --ipc private`,
      );
    },
  },
  "message-queues": {
    passed: () => "There is no POSIX message queue",
    *find({ container: { messageQueues } }) {
      if (messageQueues.length === 0) return;
      yield blocker(
        `The container has POSIX message queues, which CRIU can't dump: ${messageQueues.join(", ")}`,
        "let the application remove them (mq_unlink)",
      );
    },
  },
  semaphores: {
    passed: () => "There are no System V semaphores",
    *find({ container: { semaphoreSets } }) {
      if (semaphoreSets === 0) return;
      yield warning(
        `The container has ${count(semaphoreSets, "set")} of System V semaphores; ` +
          "what was to be undone of them when a process ends (SEM_UNDO) is not restored",
        "none needed unless the application uses SEM_UNDO: then restart it on the target",
      );
    },
  },
  "frozen-memory": {
    passed: (s) => `At most ${size(frozenBytes(s.container))} of memory must be dumped and restored while the container is frozen`,
    *find({ container }) {
      const bytes = frozenBytes(container);
      const ms = Math.ceil(frozenMs(bytes));
      if (ms < FROZEN_MS_TOLD) return;
      yield warning(
        `Up to ${size(bytes)} of shared memory, locked memory and files in tmpfs are dumped and restored while the container is frozen, ` +
          `which takes about ${ms} ms: most of it crosses before`,
        "none needed if that is short enough; otherwise configure less shared memory, or remove files from /dev/shm and tmpfs",
      );
    },
  },
} as const satisfies Record<string, Check>;

function* findNamespaces(container: ContainerFacts, source: string, target: string): Iterable<Problem> {
  for (const namespace of container.hostNamespaces) {
    if (namespace === "uts") {
      yield warning(
        `The container has the name of ${source} (--uts host): afterwards it has that of ${target}`,
        "give it one of its own with --hostname if that matters",
      );
      continue;
    }
    yield blocker(`The container uses the ${namespace} namespace of ${source}, which does not move`, `run it without --${namespace} host`);
  }
  for (const process of container.processes) {
    if (process.origin !== "container") continue; // in a restored container it has the host's time namespace, and must end anyway
    const nested = process.foreignNamespaces.filter((namespace) => !NESTABLE.has(namespace));
    if (nested.length === 0) continue;
    yield blocker(
      `${nameOf(process)} has a ${nested.join(", ")} namespace of its own, which CRIU can't dump inside a container`,
      "stop it, or turn its sandbox off",
    );
  }
}

/** CRIU dumps these inside a container too; of the network's it could, were it not for that of the container being external. */
const NESTABLE: ReadonlySet<Namespace> = new Set(["mnt"]);

function* findAnonymous(process: ProcessFacts): Iterable<Problem> {
  const unsupported = process.descriptors.filter((descriptor) => descriptor.kind === "anonymous" && !ANONYMOUS.has(descriptor.type));
  const byType = Map.groupBy(unsupported, (descriptor) => (descriptor.kind === "anonymous" ? descriptor.type : ""));
  for (const [type, descriptors] of byType) {
    yield blocker(
      `${nameOf(process)} has ${withArticle(type)} (${fds(descriptors)}), which CRIU can't dump`,
      ANONYMOUS_REMEDIES[type] ?? "let the application close it",
    );
  }
}

function* findUnknownToCriu(process: ProcessFacts): Iterable<Problem> {
  for (const descriptor of process.descriptors) {
    const where = `${nameOf(process)} has`;
    if (descriptor.kind === "packet-pipe")
      yield blocker(`${where} a pipe in packet mode (${fds([descriptor])}), which CRIU can't dump`, "let the application close it");
    if (descriptor.kind === "eventfd-semaphore") {
      yield blocker(
        `${where} an eventfd in semaphore mode (${fds([descriptor])}), which CRIU restores as an ordinary counter`,
        "let the application use another semaphore, or close it",
      );
    }
    if (descriptor.kind === "background-terminal") {
      yield blocker(
        `${where} its terminal open (${fds([descriptor])}) while another process group is in the foreground, which CRIU can't dump`,
        "let the command in the foreground end; for a shell under --init, run the container without --init",
      );
    }
  }
}

function* findOutside(process: ProcessFacts): Iterable<Problem> {
  if (process.origin !== "container") return; // it was given what it holds from outside, and must end anyway
  for (const descriptor of process.descriptors) {
    const where = `${nameOf(process)} holds`;
    const remedy = `let the application close ${fds([descriptor])}`;
    if (descriptor.kind === "outside-file")
      yield blocker(`${where} ${descriptor.path} of a mount outside of the container (${fds([descriptor])})`, remedy);
    if (descriptor.kind === "outside-process") yield blocker(`${where} a process outside of the container (${fds([descriptor])})`, remedy);
    if (descriptor.kind === "outside-namespace") {
      yield blocker(`${where} a ${descriptor.type} namespace in which no process of the container lives (${fds([descriptor])})`, remedy);
    }
  }
}

function* findMappings({ processes }: ContainerFacts): Iterable<Problem> {
  for (const process of processes) {
    for (const mapping of process.mappings) {
      const where = `${nameOf(process)} has`;
      switch (mapping.kind) {
        case "device":
        case "deleted":
          break;
        case "anonymous-inode":
          yield blocker(
            `${where} ${withArticle(mapping.type)} in its memory (at ${mapping.address}), which CRIU can't dump`,
            ANONYMOUS_REMEDIES[mapping.type] ?? "let the application unmap it",
          );
          break;
        case "uprobes":
          yield blocker(
            `${where} probes of a tracing tool in its code (at ${mapping.address})`,
            "stop the tool (perf, bpftrace, ...) and restart the process",
          );
          break;
      }
    }
  }
}

/** What about a socket forbids a dump; undefined if nothing does. */
function describeSocket(socket: Socket, inside: ReadonlySet<number>): { readonly what: string; readonly remedy: string } | undefined {
  switch (socket.type) {
    case "tcp":
    case "udp":
    case "raw":
      return undefined;
    case "packet":
      if (socket.interfaceIndex <= LOOPBACK_INDEX) return undefined;
      return { what: `packet socket on interface ${socket.interfaceIndex}`, remedy: "stop the packet capture or DHCP client" };
    case "netlink":
      if (socket.queuedBytes > 0)
        return { what: `netlink socket with ${size(socket.queuedBytes)} unread`, remedy: "let the application read it, then try again" };
      if (socket.groups > 0 && socket.portId === 0)
        return { what: "netlink socket with groups but no address", remedy: "restart the application" };
      return undefined;
    case "unix":
      if (socket.peerInode === 0 || inside.has(socket.peerInode)) return undefined;
      return {
        what: `connection to a process outside of the container${socket.path === "" ? "" : `, at ${socket.path}`}`,
        remedy: "close that connection: stop what needs the host's socket",
      };
    case "other":
      if (socket.protocol === "MPTCP")
        return { what: "Multipath TCP socket", remedy: "turn Multipath TCP off; for Go programs set GODEBUG=multipathtcp=0" };
      return { what: `socket of protocol ${socket.protocol}, which CRIU can't dump`, remedy: "let the application close it" };
  }
}

/** /dev/null, /dev/zero, /dev/random, ... and terminals. */
function isHarmless(device: Extract<Descriptor, { kind: "device" }>): boolean {
  return !device.block && (device.major === MEM_MAJOR || TTY_MAJORS.has(device.major));
}

export function socketsOf(process: ProcessFacts): { fd: number; socket: Socket }[] {
  return process.descriptors.flatMap((descriptor) =>
    descriptor.kind === "socket" ? [{ fd: descriptor.fd, socket: descriptor.socket }] : [],
  );
}

function unixInodes(processes: readonly ProcessFacts[]): Set<number> {
  const sockets = processes.flatMap((process) => socketsOf(process)).map(({ socket }) => socket);
  return new Set(sockets.flatMap((socket) => (socket.type === "unix" ? [socket.inode] : [])));
}

/** Deleted files that a process holds, by descriptor or mapping. */
export function deletedFiles(process: ProcessFacts) {
  return [
    ...process.descriptors.flatMap((descriptor) =>
      descriptor.kind === "deleted" ? [{ file: descriptor.file, where: `fd ${descriptor.fd}` }] : [],
    ),
    ...process.mappings.flatMap((mapping) => (mapping.kind === "deleted" ? [{ file: mapping.file, where: `at ${mapping.address}` }] : [])),
  ];
}

/**
 * Whether CRIU has to make a helper link for the file on disk. In a tmpfs the link crosses with all other files, and a file of the image
 * crosses as one that has no name at all.
 */
function isLinkLeft({ linkCount, fileSystem, inode }: DeletedFile, linkedInodes: readonly number[]): boolean {
  return linkCount > 0 && fileSystem !== "tmpfs" && (fileSystem !== "overlay" || linkedInodes.includes(inode));
}

function withArticle(noun: string): string {
  return `${/^[aeiou]/.test(noun) ? "an" : "a"} ${noun}`;
}

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}
