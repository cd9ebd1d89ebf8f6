/**
 * A process that holds all kinds of things, and processes in special states, as they are read.
 */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, linkSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import type { Descriptor } from "../core/preflight-facts.ts";
import { parseMountinfo } from "../kernel/mountinfo.ts";
import { isGone, readNamespaces, readProcess, type ProcessReading, type Surroundings } from "./process.ts";
import { SocketTables } from "./sockets.ts";

/** Numbers of system calls that Perl has no name for. */
const SYSCALLS: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  x64: {
    mmap: 9,
    memfd_create: 319,
    userfaultfd: 323,
    inotify_init1: 294,
    inotify_add_watch: 254,
    pipe2: 293,
    io_uring_setup: 425,
    pidfd_open: 434,
    eventfd2: 290,
    timer_create: 222,
  },
  arm64: {
    mmap: 222,
    memfd_create: 279,
    userfaultfd: 282,
    inotify_init1: 26,
    inotify_add_watch: 27,
    pipe2: 59,
    io_uring_setup: 425,
    pidfd_open: 434,
    eventfd2: 19,
    timer_create: 107,
  },
};

/** Opens all kinds of things and tells `NAME FD` of each, -1 if this machine has no such thing; then waits to be killed. */
const HOLDER = String.raw`
  use strict; use Socket; use Fcntl ":flock"; $| = 1;
  my ($folder, $outside, $foreign, %nr) = @ARGV;
  my @kept;
  sub told { my ($name, $fd) = @_; print "$name $fd\n"; $fd }
  sub kept { my ($name, $file) = @_; push @kept, $file; told($name, fileno $file) }
  sub opened { my ($name, $mode, $path) = @_; open(my $file, $mode, $path) or return told($name, -1); kept($name, $file); $file }
  sub made { my ($name, @how) = @_; socket(my $s, $how[0], $how[1], $how[2]) or return told($name, -1); kept($name, $s); $s }
  $^F = 1000;
  my $params = "\0" x 120;
  my $ring = told("io_uring", syscall($nr{io_uring_setup}, 4, $params));
  syscall($nr{mmap}, 0, 4096, 3, 1, $ring, 0) if $ring >= 0;
  told("userfaultfd", syscall($nr{userfaultfd}, 1));
  my $name = "shared\0";
  told("memfd", syscall($nr{memfd_create}, $name, 0));
  my $inotify = told("inotify", syscall($nr{inotify_init1}, 0));
  for my $watched ("/proc/version", $folder) { my $path = "$watched\0"; syscall($nr{inotify_add_watch}, $inotify, $path, 2) }
  told("eventfd", syscall($nr{eventfd2}, 3, 0));
  told("eventfd-semaphore", syscall($nr{eventfd2}, 3, 1));
  my $event = pack("q i i i x44", 0, 14, 4, $$); my $id = "\0" x 8; # SIGALRM, SIGEV_THREAD_ID
  syscall($nr{timer_create}, 1, $event, $id);
  told("pidfd-outside", syscall($nr{pidfd_open}, getppid, 0));
  my $zombie = fork // die; exit 0 if $zombie == 0;
  told("pidfd-zombie", syscall($nr{pidfd_open}, $zombie, 0));
  my $reaped = fork // die; if ($reaped == 0) { sleep 1 while 1 }
  told("pidfd-reaped", syscall($nr{pidfd_open}, $reaped, 0)); kill "KILL", $reaped; waitpid $reaped, 0;
  told("pidfd-inside", syscall($nr{pidfd_open}, $$ + 0, 0));
  opened("ordinary", "<", "$folder/ordinary");
  my $deleted = opened("deleted", "+>", "$folder/deleted");
  print $deleted "x" x 20000; $deleted->flush; unlink "$folder/deleted";
  opened("deleted-linked", "<", "$folder/linked"); unlink "$folder/linked";
  opened("called-deleted", "<", "$folder/name (deleted)");
  flock(opened("locked", ">", "$folder/locked"), LOCK_EX);
  opened("null", "<", "/dev/null");
  for my $journal (["sqlite", "\1"], ["sqlite-wal", "\2"]) {
    my $database = opened($journal->[0], "+>", "$folder/$journal->[0]");
    print $database "SQLite format 3\0\x10\0", $journal->[1], "\1"; $database->flush;
  }
  opened("sqlite-read", "<", "$folder/sqlite");
  my $pair = "\0" x 8; syscall($nr{pipe2}, $pair, 040000); told("packet-pipe", (unpack "ii", $pair)[1]);
  my ($disk) = grep { -b && open(my $file, "<", $_) } glob "/dev/*";
  my $block = opened("block-device", "<", $disk // "");
  syscall($nr{mmap}, 0, 4096, 1, 1, fileno $block, 0) if ref $block;
  opened("namespace", "<", "/proc/$foreign/ns/net");
  opened("own-namespace", "<", "/proc/self/ns/net");
  made("raw", AF_INET, SOCK_RAW, 1);
  made("packet", 17, SOCK_RAW, 0);
  made("tcp", AF_INET, SOCK_STREAM, 0);
  my $listener = made("mptcp", AF_INET, SOCK_STREAM, 262);
  if (ref $listener) { bind($listener, sockaddr_in(0, INADDR_LOOPBACK)); listen($listener, 1) }
  my $netlink = made("netlink", 16, SOCK_RAW, 0);
  bind($netlink, pack("SSLL", 16, 0, 0, 1));
  made("vsock", 40, SOCK_STREAM, 0);
  my $unix = made("unix", AF_UNIX, SOCK_STREAM, 0);
  connect($unix, sockaddr_un($outside)) or die $!;
  print "ready 0\n";
  sleep 1 while 1;
`;

/** The descriptors that the holder told of, by name. */
async function toldBy(holder: ChildProcess): Promise<Map<string, number>> {
  const fds = new Map<string, number>();
  if (holder.stdout === null) throw new Error("the holder's output is a pipe");
  for await (const line of createInterface({ input: holder.stdout })) {
    const [name = "", fd] = line.split(" ");
    if (name === "ready") return fds;
    fds.set(name, Number(fd));
  }
  throw new Error("the holder ended");
}

/** A process alone in its container, with the namespaces and mounts of this one. */
function aloneWith(pid: number): Surroundings {
  const namespaces = readNamespaces("/proc/self");
  return {
    namespaces,
    inhabited: new Set(Object.values(namespaces)),
    mounts: parseMountinfo(readFileSync("/proc/self/mountinfo", "utf8")),
    pids: new Set([pid]),
    sockets: new SocketTables(),
  };
}

describe("a process that holds all kinds of things", () => {
  const folder = mkdtempSync(path.join(tmpdir(), "dmigrate-process-"));
  const outside = createServer();
  const foreign = spawn("unshare", ["--net", "sleep", "600"], { stdio: "ignore" });
  let holder: ChildProcess;
  let fds: Map<string, number>;
  let reading: ProcessReading;

  before(async () => {
    for (const name of ["ordinary", "linked", "name (deleted)", "locked"]) writeFileSync(path.join(folder, name), "content");
    linkSync(path.join(folder, "linked"), path.join(folder, "other-name"));
    outside.listen(path.join(folder, "server"));
    await once(outside, "listening");
    await until(() => readlinkSync(`/proc/${foreign.pid}/ns/net`) !== readlinkSync("/proc/self/ns/net"));
    const numbers = Object.entries(SYSCALLS[process.arch] ?? {})
      .flat()
      .map(String);
    holder = spawn("perl", ["-e", HOLDER, folder, path.join(folder, "server"), String(foreign.pid), ...numbers], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    [fds] = await Promise.all([toldBy(holder), once(outside, "connection")]);
    await until(() => / S /.test(readFileSync(`/proc/${holder.pid}/stat`, "utf8"))); // it sleeps from now on
    reading = readProcess(`/proc/${holder.pid}`, aloneWith(holder.pid ?? 0));
  });

  after(async () => {
    await Promise.all([holder, foreign].map(end));
    outside.close();
    rmSync(folder, { recursive: true });
  });

  const of = (name: string): Descriptor[] => reading.descriptors.filter(({ fd }) => fd === fds.get(name));
  const linkOf = (name: string): string => readlinkSync(`/proc/${holder.pid}/fd/${fds.get(name)}`);
  /** Asserts what is read of a descriptor, unless this machine refused to make it. */
  const reads = (name: string, expected: (fd: number) => readonly object[]): void => {
    test(name, (t) => {
      const fd = fds.get(name) ?? -1;
      if (fd === -1) return t.skip(`this machine makes no ${name}`);
      const found = of(name);
      assert.equal(found.length, expected(fd).length, JSON.stringify(found));
      return assert.partialDeepStrictEqual(found, expected(fd));
    });
  };

  test("is known by its name and pid", () => {
    assert.deepEqual([reading.name, reading.pid, reading.innerPid, reading.parentPid], ["perl", holder.pid, holder.pid, process.pid]);
    assert.deepEqual([reading.state, reading.tracerPid, reading.threadCount], ["S", 0, 1]);
    assert.deepEqual([reading.hasMainThreadTimer, reading.isMemfd], [true, false]);
    assert.deepEqual(reading.foreignNamespaces, []);
    assert.deepEqual(reading.processors.length, 1);
    assert.match(reading.processors[0] ?? "", /^\d[\d,-]*$/);
    assert.ok(reading.memory.residentBytes >= reading.memory.anonymousBytes && reading.memory.anonymousBytes > 100_000);
  });

  for (const type of ["io_uring", "userfaultfd"]) reads(type, (fd) => [{ kind: "anonymous", fd, type }]);
  for (const name of ["pidfd-inside", "pidfd-zombie", "pidfd-reaped"]) reads(name, (fd) => [{ kind: "anonymous", fd, type: "pidfd" }]);
  reads("pidfd-outside", (fd) => [{ kind: "outside-process", fd }]);
  reads("eventfd", (fd) => [{ kind: "anonymous", fd, type: "eventfd" }]);
  reads("eventfd-semaphore", (fd) => [{ kind: "eventfd-semaphore", fd }]);
  reads("own-namespace", () => []);
  reads("namespace", (fd) => [{ kind: "outside-namespace", fd, type: "net" }]);

  for (const name of ["ordinary", "called-deleted", "memfd", "sqlite-wal", "sqlite-read"]) reads(name, () => []);
  reads("sqlite", (fd) => [{ kind: "sqlite", fd, path: path.join(folder, "sqlite") }]);
  reads("deleted", (fd) => [{ kind: "deleted", fd, file: { path: path.join(folder, "deleted"), linkCount: 0 } }]);
  reads("deleted-linked", (fd) => [{ kind: "deleted", fd, file: { path: path.join(folder, "linked"), linkCount: 1 } }]);
  reads("locked", (fd) => [{ kind: "lock", fd }]);
  reads("packet-pipe", (fd) => [{ kind: "packet-pipe", fd }]);
  reads("null", (fd) => [{ kind: "device", fd, path: "/dev/null", block: false, major: 1, minor: 3 }]);
  reads("block-device", (fd) => [{ kind: "device", fd, path: linkOf("block-device"), block: true }]);

  reads("raw", (fd) => [{ kind: "socket", fd, socket: { type: "raw" } }]);
  reads("packet", (fd) => [{ kind: "socket", fd, socket: { type: "packet", interfaceIndex: 0 } }]);
  reads("tcp", (fd) => [{ kind: "socket", fd, socket: { type: "tcp", state: "closed" } }]);
  reads("mptcp", (fd) => [{ kind: "socket", fd, socket: { type: "other", protocol: "MPTCP" } }]);
  reads("vsock", (fd) => [{ kind: "socket", fd, socket: { type: "other", protocol: "AF_VSOCK" } }]);
  reads("netlink", (fd) => [{ kind: "socket", fd, socket: { type: "netlink", groups: 1, portId: holder.pid } }]);
  reads("unix", (fd) => [{ kind: "socket", fd, socket: { type: "unix", path: path.join(folder, "server") } }]);

  test("the size of a deleted file is what it takes on the disk", () => {
    const [deleted] = of("deleted");
    assert.ok(deleted?.kind === "deleted" && deleted.file.diskBytes >= 20_000 && deleted.file.diskBytes < 100_000);
  });

  test("a unix socket and its peer have different inodes", () => {
    const [unix] = of("unix");
    assert.ok(unix?.kind === "socket" && unix.socket.type === "unix");
    assert.ok(unix.socket.inode > 0 && unix.socket.peerInode > 0 && unix.socket.inode !== unix.socket.peerInode);
  });

  test("a watched file is told where it can't be opened again by its handle", () => {
    const watches = of("inotify").filter((descriptor) => descriptor.kind === "watch");
    assert.ok(watches.some(({ fileSystem, inode }) => fileSystem === "proc" && inode === statSync("/proc/version").ino));
  });

  test("a file in a mount that nobody in the container sees is told", () => {
    const mounts = aloneWith(0).mounts.filter(({ path: mountPoint }) => mountPoint !== "/dev" && mountPoint !== "/");
    const { descriptors } = readProcess(`/proc/${holder.pid}`, { ...aloneWith(holder.pid ?? 0), mounts });
    const fd = fds.get("null") ?? -1;
    assert.deepEqual(
      descriptors.filter((descriptor) => descriptor.fd === fd),
      [{ kind: "outside-file", fd, path: "/dev/null" }],
    );
  });

  test("namespaces that are not the container's are told", () => {
    const namespaces = { ...readNamespaces("/proc/self"), uts: "uts:[1]" };
    const { foreignNamespaces } = readProcess(`/proc/${holder.pid}`, { ...aloneWith(holder.pid ?? 0), namespaces });
    assert.deepEqual(foreignNamespaces, ["uts"]);
  });

  test("what is mapped is told too", (t) => {
    const mapped = reading.mappings.map((mapping) =>
      mapping.kind === "device" ? mapping.path : mapping.kind === "anonymous-inode" ? mapping.type : mapping.kind,
    );
    const expected = [
      ...(fds.get("io_uring") === -1 ? [] : ["io_uring"]),
      ...(fds.get("block-device") === -1 ? [] : [linkOf("block-device")]),
    ];
    if (expected.length === 0) return t.skip("this machine has neither");
    return assert.deepEqual(mapped.toSorted(), expected.toSorted());
  });
});

describe("a process in a special state", () => {
  const marks = mkdtempSync(path.join(tmpdir(), "dmigrate-state-"));
  after(() => rmSync(marks, { recursive: true }));
  const started: ChildProcess[] = [];
  after(() => Promise.all(started.map(end)));
  const start = (...[program = "", ...args]: readonly string[]): number => {
    const child = spawn(program, args, { stdio: "ignore" });
    started.push(child);
    return child.pid ?? 0;
  };
  const read = (pid: number): ProcessReading => readProcess(`/proc/${pid}`, aloneWith(pid));

  test("stopped", async () => {
    const pid = start("sleep", "600");
    process.kill(pid, "SIGSTOP");
    await until(() => read(pid).state === "T");
  });

  test("traced", async () => {
    const pid = start("sleep", "600");
    const ptrace = process.arch === "x64" ? 101 : 117;
    const tracer = start("perl", "-e", `syscall(${ptrace}, 0x4206, ${pid}, 0, 0) == 0 or die $!; sleep 600`);
    await until(() => read(pid).tracerPid === tracer);
  });

  test("with one thread traced, not its main one", async () => {
    const pid = start(process.execPath, "-e", "setTimeout(() => {}, 600_000)"); // Node has several threads
    const others = (): string[] => readdirSync(`/proc/${pid}/task`).filter((thread) => thread !== String(pid));
    await until(() => others().length > 0);
    const ptrace = process.arch === "x64" ? 101 : 117;
    const tracer = start("perl", "-e", `syscall(${ptrace}, 0x4206, ${others()[0]}, 0, 0) == 0 or die $!; sleep 600`);
    await until(() => read(pid).tracerPid === tracer);
    assert.doesNotMatch(readFileSync(`/proc/${pid}/status`, "utf8"), /^TracerPid:\t[1-9]/m);
  });

  test("in vfork, while its child has not started its program", { skip: process.arch !== "x64" }, async () => {
    const pid = start("perl", "-e", "syscall(58) or syscall(34)"); // vfork, and pause in the child
    await until(() => read(pid).inVfork);
    const child = Number(readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8"));
    assert.equal(read(child).inVfork, false);
    process.kill(child, "SIGKILL");
  });

  test("with its terminal open, in whose foreground is another", async () => {
    // A session with a terminal of its own: first its leader is in the foreground, then a child in a group of its own.
    const pid = start(
      "script",
      "--quiet",
      "--command",
      String.raw`exec perl -e '
      use POSIX; open(my $tty, "+<", "/dev/tty") or die; $SIG{TTOU} = "IGNORE"; sleep 1 until -e "$ARGV[0]";
      if (my $child = fork) { setpgid $child, $child; tcsetpgrp fileno $tty, $child; sleep 600 } sleep 600' ${marks}/go`,
      "/dev/null",
    );
    const childOf = (parent: number): number => Number(readFileSync(`/proc/${parent}/task/${parent}/children`, "utf8").split(" ")[0]);
    const terminals = (): string[] => read(childOf(pid)).descriptors.flatMap(({ kind }) => (/terminal/.test(kind) ? [kind] : []));
    await until(
      () => childOf(pid) > 0 && read(childOf(pid)).descriptors.some((each) => each.kind === "device" && each.path === "/dev/tty"),
    );
    assert.deepEqual(terminals(), []);
    writeFileSync(path.join(marks, "go"), "");
    await until(() => terminals().length > 0);
    process.kill(childOf(pid), "SIGKILL");
  });

  test("a zombie has nothing left", async () => {
    const parent = start("sh", "-c", "sleep 0 & exec sleep 600");
    const childOf = (): number => Number(readFileSync(`/proc/${parent}/task/${parent}/children`, "utf8"));
    await until(() => read(parent).name === "sleep" && / Z /.test(readFileSync(`/proc/${childOf()}/stat`, "utf8")));
    assert.deepEqual(read(childOf()).descriptors, []);
  });

  test("running a program that has been deleted", async () => {
    const folder = mkdtempSync(path.join(tmpdir(), "dmigrate-deleted-"));
    const program = path.join(folder, "program");
    copyFileSync("/bin/sleep", program);
    const pid = start(program, "600");
    await until(() => read(pid).name === "program");
    rmSync(folder, { recursive: true });
    const deleted = read(pid).mappings.filter((mapping) => mapping.kind === "deleted");
    assert.deepEqual(
      deleted.map(({ file }) => [file.path, file.linkCount]),
      [[program, 0]],
    );
  });

  test("running a program that lies in memory alone", async () => {
    const memfdCreate = SYSCALLS[process.arch]?.["memfd_create"];
    const pid = start(
      "perl",
      "-e",
      String.raw`my $n = "program"; my $fd = syscall(${memfdCreate}, $n, 0); open(my $out, ">&=", $fd) or die;
        open(my $in, "<", "/bin/sleep") or die; { local $/; print {$out} readline($in) } $out->flush;
        exec {"/proc/self/fd/$fd"} "sleep", "600"`,
    );
    await until(() => read(pid).isMemfd);
    assert.equal(read(pid).hasMainThreadTimer, false);
  });

  test("that has ended is an error", () => {
    assert.throws(
      () => read(2 ** 30),
      (error) => isGone(error),
    );
  });
});

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, "exit");
  child.kill("SIGKILL");
  await exited;
}

/** Waits for what other processes do; the test's own limit ends it. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await delay(5);
}
