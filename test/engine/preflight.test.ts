/**
 * The preflight of containers of a real engine: what it says of one is what CRIU then does, and what it says of a target is so.
 */
import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { until, type Host } from "../../lab/host.ts";
import { busyboxImage } from "../../lab/images/catalogue.ts";
import type { ImageSpec } from "../../lab/images/image.ts";
import { Lab } from "../../lab/lab.ts";
import { CHECKOUT, CHECKOUT_IN_HOST } from "../../lab/paths.ts";
import { examine, type CheckId, type Examination } from "../../src/core/preflight.ts";
import { hostFacts, type ContainerFacts, type HostFacts } from "../../src/core/preflight-facts.ts";
import { freezerOf } from "../../src/criu/freezer.ts";
import { dumpConfiguration } from "../../src/criu/configuration.ts";
import { Engine } from "../../src/docker/engine.ts";
import { provideImage } from "../support/lab.ts";

/** Perl can make any system call, whatever it is for. */
function perlImage(rootDir: string): ImageSpec {
  const base = busyboxImage(rootDir);
  const layer = { comment: "perl", fromRoot: ["usr/bin/perl", "usr/lib/*/perl-base/**"] };
  return { ...base, name: "dmigrate/perl:latest", layers: [...base.layers, layer] };
}

const CALLS =
  process.arch === "arm64"
    ? {
        inotify_init1: 26,
        inotify_add_watch: 27,
        fanotify_init: 262,
        fanotify_mark: 263,
        capget: 90,
        capset: 91,
        prctl: 167,
        eventfd2: 19,
        memfd_create: 279,
        timer_create: 107,
        pidfd_open: 434,
      }
    : {
        inotify_init1: 294,
        inotify_add_watch: 254,
        fanotify_init: 300,
        fanotify_mark: 301,
        capget: 125,
        capset: 126,
        prctl: 157,
        eventfd2: 290,
        memfd_create: 319,
        timer_create: 222,
        pidfd_open: 434,
      };
const IO_URING_SETUP = 425;

/** A program that holds something, says so, and waits. */
function perl(script: string): string[] {
  return ["perl", "-e", `use Socket; use Fcntl ":flock"; $| = 1; ${script}; print "holding\\n"; sleep 1 while 1`];
}

const IO_URING = `my $p = "\\0" x 120; syscall(${IO_URING_SETUP}, 4, $p) >= 0 or die $!`;
const WATCH =
  `mkdir "/watched"; my $w = syscall(${CALLS.inotify_init1}, 0); my $n = "/watched\\0"; ` +
  `syscall(${CALLS.inotify_add_watch}, $w, $n, 2) >= 0 or die $!`;
const MARK =
  `mkdir "/marked"; my $w = syscall(${CALLS.fanotify_init}, 0, 0); my $n = "/marked\\0"; ` +
  `syscall(${CALLS.fanotify_mark}, $w, 1, 2, -100, $n) >= 0 or die $!`;
const DELETED = `open(my $d, ">", "/deleted"); syswrite($d, "x" x 3145728); unlink "/deleted"`;
const LINKED = `open(my $l, ">", "/one"); link "/one", "/other"; unlink "/one"`;
const LINKED_IN_MEMORY = LINKED.replaceAll('"/o', '"/dev/shm/o');
const OF_IMAGE = `require strict; my $n = $INC{"strict.pm"}; open(my $l, "<", $n) or die; unlink $n or die $!`;
/** CAP_NET_RAW (13) is made inheritable, and dropped from the bounding set. */
const INHERITING =
  `my $v = pack("Ii", 0x20080522, 0); my $c = "\\0" x 24; syscall(${CALLS.capget}, $v, $c) == 0 or die $!; ` +
  `my @c = unpack("I6", $c); $c[2] = 1 << 13; $c = pack("I6", @c); syscall(${CALLS.capset}, $v, $c) == 0 or die $!; ` +
  `syscall(${CALLS.prctl}, 24, 13, 0, 0, 0) == 0 or die $!`;
const SEMAPHORE = `syscall(${CALLS.eventfd2}, 3, 1) >= 0 or die $!`;
const IN_MEMORY =
  `my $n = "program"; my $p = syscall(${CALLS.memfd_create}, $n, 0); open(my $o, ">&=", $p) or die $!; ` +
  `open(my $i, "<", "/usr/bin/busybox") or die $!; { local $/; print {$o} readline($i) } $o->flush; ` +
  `exec {"/proc/self/fd/$p"} "sh", "-c", "echo holding; sleep 600"`;
const TIMER = `my $e = pack("q i i i x44", 0, 14, 4, $$); my $t = "\\0" x 8; syscall(${CALLS.timer_create}, 1, $e, $t) == 0 or die $!`;
/** Of one that has been waited for, and of a zombie. */
const PIDFDS =
  `for (1, 2) { my $p = fork; if ($p == 0) { sleep 1; exit 0 } syscall(${CALLS.pidfd_open}, $p, 0) >= 0 or die $!; ` +
  `$_ == 1 ? waitpid $p, 0 : sleep 2 }`;
const SQLITE = `open(my $f, "+>", "/x.db"); syswrite($f, "SQLite format 3\\0\\x10\\0\\1\\1")`;
const LOCKED = `open(my $f, ">", "/locked"); flock($f, LOCK_EX) or die $!`;
const LISTENING = `socket(my $s, AF_INET, SOCK_STREAM, 0); bind($s, sockaddr_in(7777, INADDR_ANY)) or die $!; listen($s, 5) or die $!`;
const MPTCP = `socket(my $s, AF_INET, SOCK_STREAM, 262) or die $!; bind($s, sockaddr_in(7777, INADDR_ANY)); listen($s, 5) or die $!`;
const TO_HOST = `socket(my $s, AF_UNIX, SOCK_STREAM, 0); connect($s, sockaddr_un("/docker.sock")) or die $!`;

/** A container, the check that forbids it if one does, and the options found. */
interface Case {
  readonly argv: readonly string[];
  readonly options?: readonly string[];
  readonly blocker?: CheckId;
  /** CRIU dumps it all the same, or at times: it is the restore that would fail. */
  readonly isDumped?: boolean | "at times";
  readonly criuOptions?: readonly string[];
}

const CASES: Readonly<Record<string, Case>> = {
  plain: { argv: perl("1") },
  terminal: { argv: ["sleep", "600"], options: ["--tty", "--interactive"] },
  "io-uring": { argv: perl(IO_URING), options: ["--security-opt", "seccomp=unconfined"], blocker: "descriptors" },
  mptcp: { argv: perl(MPTCP), blocker: "sockets" },
  "to-host": { argv: perl(TO_HOST), options: ["--volume", "/run/docker.sock:/docker.sock"], blocker: "sockets" },
  pair: { argv: perl("socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, 0); fork") },
  queue: { argv: ["sh", "-c", "touch /dev/mqueue/jobs && echo holding && exec sleep 600"], blocker: "message-queues" },
  nested: { argv: ["sh", "-c", "unshare -u sleep 600 & echo holding; wait"], options: ["--cap-add", "SYS_ADMIN"], blocker: "namespaces" },
  device: { argv: perl('open(my $f, "+<", "/dev/fuse") or die $!'), options: ["--device", "/dev/fuse"], blocker: "open-devices" },
  watching: { argv: perl(WATCH), criuOptions: ["irmap-scan-path /watched"] },
  marking: { argv: perl(MARK), options: ["--cap-add", "SYS_ADMIN"], criuOptions: ["irmap-scan-path /marked"] },
  deleted: { argv: perl(DELETED), criuOptions: ["ghost-limit 6291456"] },
  linked: { argv: perl(LINKED), blocker: "deleted-files", isDumped: true },
  "linked-in-memory": { argv: perl(LINKED_IN_MEMORY), criuOptions: ["link-remap", "ghost-limit 2097152"] },
  "of-image": { argv: perl(OF_IMAGE), criuOptions: ["link-remap", "ghost-limit 2097152"] },
  inheriting: { argv: perl(INHERITING), blocker: "credentials", isDumped: true },
  semaphore: { argv: perl(SEMAPHORE), blocker: "descriptors", isDumped: true },
  "in-memory": { argv: perl(IN_MEMORY), blocker: "programs", isDumped: true },
  // CRIU 4.2 takes a thread's id from memory that it has not set (criu/timer.c, encode_notify_thread_id).
  timer: { argv: perl(TIMER), blocker: "timers", isDumped: "at times" },
  pidfds: { argv: perl(PIDFDS) },
  sqlite: { argv: perl(SQLITE), blocker: "sqlite", isDumped: true },
  locked: { argv: perl(LOCKED), criuOptions: ["file-locks"] },
  listening: { argv: perl(LISTENING), criuOptions: ["skip-in-flight"] },
};

interface Gathered {
  readonly container: ContainerFacts;
  readonly arriving: unknown;
}

/** The same as JSON can hold it. */
interface Printed extends Omit<Gathered, "container"> {
  readonly facts: Omit<ContainerFacts, "watchedPaths"> & { readonly watchedPaths: readonly (readonly [number, string])[] };
}

let lab: Lab;
let [a, b]: Host[] = [];
let source: HostFacts;

const hosts = (): { a: Host; b: Host } => {
  assert.ok(a !== undefined && b !== undefined);
  return { a, b };
};

before(async () => {
  lab = await Lab.up({ name: "h5", hosts: ["a", "b"] });
  [a, b] = [lab.host("a"), lab.host("b")];
  await Promise.all([a, b].map((host) => provideImage(host, perlImage)));
  source = await gatherHostFacts(a);
});

after(async () => await lab.down());

/** Where a host sees the program that gathers there. */
const GATHER = path.join(CHECKOUT_IN_HOST, path.relative(CHECKOUT, fileURLToPath(import.meta.resolve("./preflight-gather.ts"))));

async function gather(host: Host, ...args: readonly string[]): Promise<unknown> {
  return JSON.parse(await host.run("env", "--chdir=/", `${CHECKOUT_IN_HOST}/bin/node`, GATHER, ...args));
}

async function gatherHostFacts(host: Host, arriving?: unknown): Promise<HostFacts> {
  return hostFacts.parse(await gather(host, "host", host.name, ...(arriving === undefined ? [] : [JSON.stringify(arriving)])));
}

async function gatherContainers(host: Host, ...names: readonly string[]): Promise<Gathered[]> {
  const gathered = (await gather(host, "container", ...names)) as Printed[]; // printed by preflight-gather.ts
  return gathered.map(({ facts, arriving }) => {
    const container = Object.assign(facts, { watchedPaths: new Map(facts.watchedPaths) });
    return { container, arriving };
  });
}

/** Runs a container until it says that it holds what it is to hold. */
async function start(host: Host, name: string, argv: readonly string[], options: readonly string[] = [], network = "lan"): Promise<void> {
  await host.run("docker", "run", "--detach", "--name", name, "--network", network, ...options, "dmigrate/perl:latest", ...argv);
  const speaks = argv.some((word) => word.includes("holding"));
  if (speaks) await until(`container ${name}`, async () => (await host.run("docker", "logs", name)).includes("holding"));
}

const blockersOf = ({ findings }: Examination): CheckId[] =>
  findings.flatMap(({ severity, check }) => (severity === "blocker" ? [check] : []));

/** Has CRIU dump the container, which runs on. */
async function dump(host: Host, name: string, criuOptions: readonly string[]): Promise<{ dumped: boolean; said: string }> {
  const [id = "", pid = ""] = (await host.run("docker", "inspect", "--format", "{{.Id}} {{.State.Pid}}", name)).trim().split(" ");
  const { ino } = statSync(`${host.root}/proc/${pid}/ns/net`);
  mkdirSync(`${host.root}/etc/criu`, { recursive: true });
  writeFileSync(`${host.root}/etc/criu/runc.conf`, dumpConfiguration(ino, criuOptions));
  const folder = `/tmp/dump-${name}`;
  const argv = [
    "runc",
    "--root",
    "/run/docker/runtime-runc/moby",
    "checkpoint",
    "--leave-running",
    "--image-path",
    folder,
    "--work-path",
    folder,
    id,
  ];
  const { code, stderr } = await host.exec("env", "--chdir=/", ...argv);
  return { dumped: code === 0, said: stderr };
}

describe("what the preflight says of a container is what CRIU does", () => {
  const gathered = new Map<string, Gathered>();

  before(async () => {
    const { a: host } = hosts();
    await Promise.all(Object.entries(CASES).map(([name, { argv, options }]) => start(host, name, argv, options)));
    const all = await gatherContainers(host, ...Object.keys(CASES));
    for (const [index, name] of Object.keys(CASES).entries()) {
      const one = all[index];
      if (one !== undefined) gathered.set(name, one);
    }
  });

  for (const [name, { blocker, isDumped = blocker === undefined, criuOptions = [] }] of Object.entries(CASES)) {
    test(name, async () => {
      const { a: host } = hosts();
      const one = gathered.get(name);
      assert.ok(one !== undefined);
      const target = { ...source, docker: { ...source.docker, arrival: undefined } };
      const examination = examine(source, hostFacts.parse(target), one.container);
      assert.deepEqual(blockersOf(examination), blocker === undefined ? [] : [blocker]);
      assert.deepEqual(examination.criuOptions, blocker === undefined ? criuOptions : examination.criuOptions);
      const { dumped, said } = await dump(host, name, examination.criuOptions);
      if (isDumped !== "at times") assert.equal(dumped, isDumped, said);
    });
  }

  for (const name of ["watching", "marking", "deleted", "linked"]) {
    test(`without its options ${name} can't be dumped`, async () => {
      assert.equal((await dump(hosts().a, name, [])).dumped, false);
    });
  }
});

describe("processes that the container's init did not start", () => {
  test("are told apart: a health check in flight, and what somebody executes", async () => {
    const { a: host } = hosts();
    const check = ["--health-cmd", "sleep 555", "--health-interval", "1s", "--health-timeout", "600s"];
    await start(host, "checked", ["sleep", "600"], check);
    await host.run("docker", "exec", "--detach", "checked", "sleep", "444");
    const originsOf = async (): Promise<string[]> => {
      const [one] = await gatherContainers(host, "checked");
      return (one?.container.processes ?? []).map(({ name, origin }) => `${name} ${origin}`).toSorted();
    };
    await until("the health check", async () => (await originsOf()).some((each) => each.endsWith("health-check")));
    assert.deepEqual(
      (await originsOf()).filter((each) => each.startsWith("sleep")),
      ["sleep container", "sleep exec", "sleep health-check"],
    );
  });
});

test("files in a /dev/shm that others may join are told: CRIU dumps the container, but can't find them at the restore", async () => {
  const { a: host } = hosts();
  await start(host, "shareable", ["sh", "-c", "echo x > /dev/shm/buffers && echo holding && exec sleep 600"], ["--ipc", "shareable"]);
  const [shareable] = await gatherContainers(host, "shareable");
  assert.deepEqual(shareable?.container.shareableFiles, ["buffers"]);
});

test("containers that live in its namespaces are told, and that something has frozen it", async () => {
  const { a: host } = hosts();
  await start(host, "owner", ["sleep", "600"], ["--ipc", "shareable"]);
  await start(host, "guest", ["sleep", "600"], ["--ipc", "container:owner"], "container:owner");
  const factsOf = async (name: string): Promise<ContainerFacts | undefined> => (await gatherContainers(host, name))[0]?.container;
  const owner = await factsOf("owner");
  assert.deepEqual([owner?.dependents, owner?.frozen], [[{ name: "guest", namespaces: ["network", "ipc"] }], false]);
  assert.deepEqual((await factsOf("guest"))?.dependents, []);
  const pid = Number(await host.run("docker", "inspect", "--format", "{{.State.Pid}}", "owner"));
  const freezer = await freezerOf(realPid(host, pid));
  await freezer.freeze();
  assert.equal((await factsOf("owner"))?.frozen, true);
  await freezer.thaw();
});

/** A process as this machine counts. */
function realPid(host: Host, pid: number): number {
  const inode = statSync(`${host.root}/proc/${pid}/ns/net`).ino;
  const found = readdirSync("/proc").find((each) => {
    try {
      return (
        /^\d+$/.test(each) && statSync(`/proc/${each}/ns/net`).ino === inode && readFileSync(`/proc/${each}/comm`, "utf8") === "sleep\n"
      );
    } catch {
      return false; // it has ended
    }
  });
  return Number(found);
}

test("System V semaphores are told, of the container alone", async () => {
  const { a: host } = hosts();
  await start(host, "semaphores", perl("semget(7, 3, 01600) // die $!"));
  const both = await gatherContainers(host, "semaphores", "plain");
  assert.deepEqual(
    both.map(({ container }) => container.semaphoreSets),
    [1, 0],
  );
});

describe("a target", () => {
  const options = [
    "--volume",
    "data:/data",
    "--volume",
    "/opt/only-a:/only-a",
    "--publish",
    "7070:70",
    "--publish",
    "7171:71",
    "--cpus",
    "0.5",
  ];

  before(async () => {
    const { a: host } = hosts();
    await host.run("docker", "network", "create", "--subnet", "10.90.0.0/24", "app");
    await host.run("mkdir", "-p", "/opt/only-a");
    await start(host, "moving", perl(`open(my $f, ">", "/data/f"); syswrite($f, "x" x 5000000); close $f`), options, "app");
  });

  const examined = async (): Promise<Examination> => {
    const [moving] = await gatherContainers(hosts().a, "moving");
    assert.ok(moving !== undefined);
    return examine(source, await gatherHostFacts(hosts().b, moving.arriving), moving.container);
  };

  test("that lacks a path of the host is told, and how much has to come is known", async () => {
    const [moving] = await gatherContainers(hosts().a, "moving");
    const needs = moving?.container.needs;
    assert.ok(needs !== undefined && (needs.volumes[0]?.bytes ?? 0) >= 5_000_000 && needs.imageBytes > 1_000_000);
    assert.deepEqual(needs.cpus, { count: 0.5, set: "" });
    assert.ok(
      needs.ports.length > 0 && needs.ports.every(({ hostPort, protocol }) => [7070, 7171].includes(hostPort) && protocol === "tcp"),
    );
    const { findings } = await examined();
    assert.deepEqual(
      findings.map(({ severity, check }) => `${severity} ${check}`),
      ["warning ports", "blocker binds"],
    );
  });

  test("that would not get what a volume mounts is told", async () => {
    const { a: from, b: host } = hosts();
    await from.run("mkdir", "-p", "/opt/tied");
    const create = (name: string, ...driverOptions: string[]): Promise<string> =>
      from.run("docker", "volume", "create", ...driverOptions.flatMap((option) => ["--opt", option]), name);
    await create("in-memory", "type=tmpfs", "device=tmpfs");
    await create("tied", "type=none", "device=/opt/tied", "o=bind");
    await start(from, "mounting", ["sleep", "600"], ["--volume", "in-memory:/memory", "--volume", "tied:/tied"]);
    const [mounting] = await gatherContainers(from, "mounting");
    assert.ok(mounting !== undefined);
    const { findings } = examine(source, await gatherHostFacts(host, mounting.arriving), mounting.container);
    assert.deepEqual(
      findings.filter(({ severity }) => severity === "blocker").map(({ message }) => message),
      [
        "Volume in-memory is in memory of a: its files would be lost",
        "/opt/tied, a directory that is mounted into the container, is missing on b",
      ],
    );
    await from.run("docker", "rm", "--force", "mounting");
  });

  test("in which everything is taken is told thing by thing", async () => {
    const { b: host } = hosts();
    await host.run("mkdir", "-p", "/opt/only-a");
    await host.run("docker", "network", "create", "--subnet", "10.91.0.0/24", "app");
    await start(host, "moving", ["sleep", "600"], ["--volume", "data:/x", "--publish", "7070:71"], "app");
    host.spawn(["busybox", "nc", "-l", "-p", "7171"], { stdio: "ignore" });
    await until("a listener", async () => (await host.run("ss", "-tln")).includes(":7171"));
    const { findings } = await examined();
    const blockers = findings.filter(({ severity }) => severity === "blocker");
    assert.deepEqual(
      blockers.map(({ check }) => check),
      ["name", "networks", "ports", "ports", "volumes"],
    );
    assert.match(
      blockers.map(({ message }) => message).join("\n"),
      /Port 7070\/tcp of b.* container moving\nPort 7171\/tcp of b.* process busybox \(\d+\)\nVolume data exists on b and is used/,
    );
  });

  test("where the address is another's is told", async () => {
    const { a: from, b: host } = hosts();
    await start(from, "addressed", ["sleep", "600"], ["--ip", "10.77.0.200"]);
    await start(host, "squatter", ["sleep", "600"], ["--ip", "10.77.0.200"]);
    const [addressed] = await gatherContainers(from, "addressed");
    assert.ok(addressed !== undefined);
    const { findings } = examine(source, await gatherHostFacts(host, addressed.arriving), addressed.container);
    assert.deepEqual(
      findings.map(({ check, message }) => [check, /10\.77\.0\.200, is taken by squatter/.test(message)]),
      [["networks", true]],
    );
  });

  test("without an engine is told", async () => {
    const { b: host } = hosts();
    const [moving] = await gatherContainers(hosts().a, "moving");
    const engine = await Engine.connect(host.dockerSocket);
    assert.ok((await engine.info()).Runtimes["dmigrate"] !== undefined);
    await host.run("mv", "/run/docker.sock", "/run/moved.sock");
    const facts = await gatherHostFacts(host, moving?.arriving);
    await host.run("mv", "/run/moved.sock", "/run/docker.sock");
    assert.ok(!facts.docker.reachable && facts.docker.reason.includes("/run/docker.sock"));
  });
});
