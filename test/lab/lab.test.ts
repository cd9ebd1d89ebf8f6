/**
 * The lab itself: what it builds is as it was asked for, labs do not meet, and nothing of one is left when it is gone, however it ended.
 */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { after, before, test } from "node:test";
import { hierarchies } from "../../lab/cgroups.ts";
import { until, type Host } from "../../lab/host.ts";
import { busyboxImage } from "../../lab/images/catalogue.ts";
import { CLIENT, Lab, removeLab } from "../../lab/lab.ts";
import { CHECKOUT, DATA_DIR, RUN_DIR } from "../../lab/paths.ts";
import { ERROR_CODES } from "../../src/core/errors.ts";
import { provideImage } from "../support/lab.ts";

/** 12.5 MB a second. */
const RATE = "100mbit";
const BYTES_PER_SECOND = 12_500_000;
/** A lab with slow links, one whose engine remaps user ids, and one that is never finished. */
const [SLOW, REMAPPED, BROKEN] = ["tlab1", "tlab2", "tlab3"] as const;
let slow: Lab;
let remapped: Lab;

before(async () => {
  slow = await Lab.up({ name: SLOW, hosts: ["a"], rate: RATE });
  remapped = await Lab.up({ name: REMAPPED, hosts: ["a", "b-2"], usernsRemap: ["a"] });
});
after(() => Promise.all([SLOW, REMAPPED, BROKEN].map((name) => removeLab(name))));

test("labs live side by side: the same names and addresses, and nobody reaches the other's", async () => {
  for (const lab of [slow, remapped]) {
    const listen = `import socket; s = socket.create_server(("", 7000)); print(flush=True)\nwhile True: s.accept()[0].send(b"${lab.name}")`;
    await started(lab.host("a"), listen);
  }
  const ask = 'import socket; print(socket.create_connection(("a", 7000)).recv(100).decode(), socket.gethostbyname("a"))';
  for (const lab of [slow, remapped]) assert.equal(await lab.host(CLIENT).run("python3", "-c", ask), `${lab.name} 10.77.0.1\n`);
});

test("of two commands that build a lab of one name at once, one does, and the other says so", async () => {
  const both = await Promise.allSettled([1, 2].map(() => Lab.up({ name: BROKEN, hosts: ["a"] })));
  const failures = both.flatMap((one) => (one.status === "rejected" ? [String(one.reason)] : []));
  assert.equal(failures.length, 1, failures.join("\n"));
  assert.match(failures[0] ?? "", /Another command builds lab tlab3 just now; wait for it/);
  await (await Lab.attach(BROKEN)).down();
});

for (const [from, to] of [
  ["a", CLIENT],
  [CLIENT, "a"],
] as const) {
  test(`a link carries what it was asked to and no more, from ${from} to ${to}`, async () => {
    const megabytes = 8;
    const receive = `import socket, time
s = socket.create_server(("", 7001)); print(flush=True)
c = s.accept()[0]; count = len(c.recv(65536)); began = time.monotonic()
while chunk := c.recv(65536): count += len(chunk)
print(count, time.monotonic() - began)`;
    const receiver = await started(slow.host(to), receive);
    const send = `import socket; socket.create_connection(("${to}", 7001)).sendall(bytes(${megabytes} << 20))`;
    await slow.host(from).run("python3", "-c", send);
    const [count, seconds] = (await receiver.rest).split(" ").map(Number);
    assert.equal(count, megabytes << 20);
    assert.ok((seconds ?? 0) > (0.8 * (megabytes << 20)) / BYTES_PER_SECOND, `${megabytes} MiB in ${seconds} s is more than ${RATE}`);
  });
}

test("an engine remaps user ids where it was asked to", async () => {
  const rootIn = async (host: Host): Promise<number> => {
    const image = await provideImage(host, busyboxImage);
    return Number((await host.run("docker", "run", "--rm", image, "cat", "/proc/self/uid_map")).trim().split(/\s+/)[1]);
  };
  assert.ok((await rootIn(remapped.host("a"))) >= 100_000);
  assert.equal(await rootIn(remapped.host("b-2")), 0);
});

test("exec hands over input, output and exit code", async () => {
  const upper = await dmigrate(["lab", "exec", "--name", SLOW, "a", "--", "sh", "-c", "tr a-z A-Z; echo no >&2; exit 7"], "hello");
  assert.deepEqual(upper, { code: 7, stdout: "HELLO", stderr: "no\n" });
  assert.equal((await dmigrate(["lab", "exec", "--name", SLOW, "a", "--", "sh", "-c", "kill -KILL $$"])).code, 128 + 9);
  assert.equal((await dmigrate(["lab", "exec", "--name", SLOW, "a", "--", "no-such-program"])).code, 127);
  assert.match((await dmigrate(["lab", "exec", "--name", SLOW, "a", "--", "dmigrate", "--version"])).stdout, /^\d+\.\d+\.\d+/);
});

test("a program ends with the exec that runs it", async () => {
  const exec = spawnDmigrate(["lab", "exec", "--name", SLOW, "a", "--", "sh", "-c", "echo; exec tail -f /dev/null"]);
  const exited = once(exec, "exit");
  if (exec.stdout !== null) await once(exec.stdout, "data");
  exec.kill("SIGTERM");
  assert.deepEqual(await exited, [128 + 15, null]);
  await until("the program to end", async () => (await slow.host("a").exec("pgrep", "-x", "tail")).code === 1);
});

test("Ctrl-C at a terminal is the program's to answer", async () => {
  // `script` hands this to a shell, which would end by the Ctrl-C as well, if it stayed.
  const exec = (program: string): string => `exec ${CHECKOUT}/bin/dmigrate lab exec --name ${SLOW} a -- sh -c '${program}'`;
  const pressing = async (program: string): Promise<number> => {
    const terminal = spawn("script", ["--quiet", "--return", "--command", exec(program), "/dev/null"], { stdio: "pipe" });
    const exited = once(terminal, "exit");
    terminal.stdout.once("data", () => terminal.stdin.write("\u0003"));
    const [code] = (await exited) as [number]; // as child_process documents
    return code;
  };
  assert.equal(await pressing('trap "sleep 0.2; exit 7" INT; echo; while :; do sleep 0.1; done'), 7);
  assert.equal(await pressing("echo; exec sleep 1000"), 128 + 2);
});

const WRONG: readonly (readonly [args: readonly string[], code: keyof typeof ERROR_CODES, message: RegExp])[] = [
  [["lab", "exec", "--name", "tlab9", "a", "--", "true"], "LAB", /There is no lab tlab9\n.*`dmigrate lab up`/],
  [["lab", "exec", "--name", SLOW, "z", "--", "true"], "LAB", /Lab tlab1 has no host z\n.*it has a, client/],
  [["lab", "exec", "--name", "../x", "a", "--", "true"], "USAGE", /"..\/x" is no name for a lab\n.*up to 7/],
  [["lab", "down", "--name", "much-too-long"], "USAGE", /"much-too-long" is no name for a lab/],
  [["lab", "up", "--name", BROKEN, "--hosts", ""], "USAGE", /name at least one/],
  [["lab", "up", "--name", BROKEN, "--hosts", "a,b,a"], "USAGE", /Host a is named twice/],
  [["lab", "up", "--name", BROKEN, "--hosts", "a,client"], "USAGE", /Every lab has a host client/],
  [["lab", "up", "--name", BROKEN, "--hosts", "a,fourteen-chars"], "USAGE", /"fourteen-chars" is no name .*\n.*up to 12 lower-case/],
  [["lab", "up", "--name", BROKEN, "--hosts", "../../etc"], "USAGE", /"..\/..\/etc" is no name/],
  [["lab", "up", "--name", BROKEN, "--userns-remap", "c"], "USAGE", /Host c, which shall remap user ids, is not of this lab/],
  [["lab", "up", "--name", BROKEN, "--cgroup2", "c"], "USAGE", /Host c, which shall have cgroup v2 alone, is not of this lab/],
  [["lab", "up", "--name", BROKEN, "--rate", "fast"], "USAGE", /"fast" is no rate\n.*100mbit/],
  [["demo", "--name", BROKEN, "--rate", "fast"], "USAGE", /"fast" is no rate\n.*100mbit/],
  [["demo", "--name", "Broken"], "USAGE", /"Broken" is no name for a lab/],
  ...["x", "0", "-1", "1.5", ""].map(
    (moves) => [["demo", "--name", BROKEN, "--moves", moves], "USAGE", /is no number of moves\n.*whole number from 1/] as const,
  ),
];

test("what can't be built or found is said, and nothing is begun", async () => {
  for (const [args, code, message] of WRONG) {
    const { code: exitCode, stdout, stderr } = await dmigrate(args);
    assert.deepEqual([exitCode, stdout], [ERROR_CODES[code].exitCode, ""], stderr);
    assert.match(stderr, message);
  }
  await assertGone(BROKEN);
});

test("status tells what runs where, to people and to programs", async () => {
  const { stdout } = await dmigrate(["lab", "status"]);
  assert.match(stdout, /^tlab1\n {2}a +10\.77\.0\.1 +Docker Engine\n {2}client +10\.77\.0\.2$/m);
  assert.match(stdout, /^tlab2\n {2}a +10\.77\.0\.1 +Docker Engine, user ids remapped\n {2}b-2 +10\.77\.0\.2 +Docker Engine\n/m);
  const hosts = [
    { name: "a", address: "10.77.0.1", docker: true, usernsRemap: false, cgroup2: false, agent: false },
    { name: "client", address: "10.77.0.2", docker: false, usernsRemap: false, cgroup2: false, agent: false },
  ];
  assert.deepEqual(await statusOf(SLOW), { name: SLOW, hosts });
});

test("a lab whose building was broken off is known, and taken down", async () => {
  const up = spawnDmigrate(["lab", "up", "--name", BROKEN]);
  for await (const line of createInterface({ input: up.stderr ?? assert.fail() })) if (line === "Host a is up at 10.77.0.1") break;
  up.kill("SIGKILL");
  await once(up, "exit");
  assert.match(String((await statusOf(BROKEN))?.["problem"]), /^Lab tlab3 was not built to its end; .*`dmigrate lab down --name tlab3`/);
  const { code, stdout, stderr } = await dmigrate(["lab", "down", "--name", BROKEN, "--json"]);
  assert.deepEqual([code, JSON.parse(stdout), stderr], [0, { removed: [BROKEN] }, "Lab tlab3 is gone.\n"]);
  await assertGone(BROKEN);
  const again = await dmigrate(["lab", "down", "--name", BROKEN]);
  assert.deepEqual([again.code, again.stdout, again.stderr], [0, "", "There is no lab tlab3.\n"]);
  assert.deepEqual(JSON.parse((await dmigrate(["lab", "down", "--name", BROKEN, "--json"])).stdout), { removed: [] });
});

test("Ctrl-C while a lab is built leaves nothing of it", async () => {
  const up = spawnDmigrate(["lab", "up", "--name", BROKEN]);
  const exited = once(up, "exit");
  const said: string[] = [];
  for await (const line of createInterface({ input: up.stderr ?? assert.fail() })) {
    said.push(line);
    if (line === "Host a is up at 10.77.0.1") up.kill("SIGINT");
  }
  assert.deepEqual(await exited, [128 + 2, null]);
  assert.deepEqual(said.slice(-2), [`Interrupted: taking lab ${BROKEN} down`, `Lab ${BROKEN} is gone.`]);
  await assertGone(BROKEN);
});

test("a lab whose host died is known, and replaced by one of the same name", async () => {
  const [dead] = remapped.hosts;
  process.kill(dead?.record.initPid ?? assert.fail(), "SIGKILL");
  await until("the host to die", () => dead?.alive === false);
  assert.match(String((await statusOf(REMAPPED))?.["problem"]), /^Host a of lab tlab2 died; `dmigrate lab up --name tlab2` builds it anew/);
  const { code, stdout, stderr } = await dmigrate(["lab", "up", "--name", REMAPPED, "--hosts", "a", "--json"]);
  assert.equal(code, 0, stderr);
  assert.deepEqual(JSON.parse(stdout), { labs: [await statusOf(REMAPPED)] });
  const hosts = (await statusOf(REMAPPED))?.["hosts"] as { name: string; agent: boolean }[];
  assert.deepEqual(
    hosts.map(({ name, agent }) => [name, agent]),
    [
      ["a", true],
      ["client", false],
    ],
  );
});

test("a lab with frozen tasks and folders that are in use goes without a trace", async () => {
  const host = slow.host("a");
  const image = await provideImage(host, busyboxImage);
  await host.run("docker", "run", "--detach", "--name", "frozen", "--volume", "data:/data", image, "tail", "-f", "/dev/null");
  await host.run("docker", "pause", "frozen");
  const sitting = host.spawn(["sh", "-c", "cd /var/lib/docker; exec 3>busy; echo; exec tail -f /dev/null"], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  if (sitting.stdout !== null) await once(sitting.stdout, "data");
  assert.equal((await dmigrate(["lab", "down", "--name", SLOW])).code, 0);
  await assertGone(SLOW);
  assert.equal(await statusOf(SLOW), undefined);
  assert.notEqual(await statusOf(REMAPPED), undefined);
});

/** Asserts that this machine has no trace of a lab. */
async function assertGone(name: string): Promise<void> {
  for (const folder of [RUN_DIR, DATA_DIR]) assert.ok(!existsSync(path.join(folder, name)), `${folder}/${name} is left`);
  assert.ok(!existsSync(`/run/netns/dmlab-${name}`), "the segment is left");
  const ownMounts = (await readFile("/proc/self/mounts", "utf8")).split("\n");
  assert.deepEqual(
    ownMounts.filter((line) => line.includes(`/dmigrate-lab/${name}/`)),
    [],
  );
  const ofLab = (each: string): boolean => each.startsWith(`dmlab-${name}-`);
  for (const { mountPoint } of hierarchies()) assert.deepEqual((await readdir(mountPoint)).filter(ofLab), [], mountPoint);
  const rootOfLab = new RegExp(` / / .*upperdir=${DATA_DIR}/${name}/`);
  for (const pid of (await readdir("/proc")).filter((each) => /^\d+$/.test(each))) {
    const mounts = await readFile(`/proc/${pid}/mountinfo`, "utf8").catch(() => ""); // ended meanwhile
    assert.doesNotMatch(mounts, rootOfLab, `process ${pid} is left`);
  }
}

/** Starts Python in a host; returns when it has printed a line. */
async function started(host: Host, program: string): Promise<{ readonly rest: Promise<string> }> {
  const child = host.spawn(["python3", "-c", program], { stdio: ["ignore", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout ?? assert.fail() });
  await once(lines, "line");
  return { rest: once(lines, "line").then(String) };
}

function spawnDmigrate(args: readonly string[]): ChildProcess {
  return spawn(`${CHECKOUT}/bin/dmigrate`, args, { stdio: "pipe" });
}

async function dmigrate(args: readonly string[], input = ""): Promise<{ code: number; stdout: string; stderr: string }> {
  const child = spawnDmigrate(args);
  child.stdin?.end(input);
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout ?? assert.fail()),
    text(child.stderr ?? assert.fail()),
    once(child, "close") as Promise<[number]>, // as child_process documents
  ]);
  return { code, stdout, stderr };
}

/** A lab in the answer of `lab status --json`. */
async function statusOf(name: string): Promise<Record<string, unknown> | undefined> {
  const { labs } = JSON.parse((await dmigrate(["lab", "status", "--json"])).stdout) as { labs: Record<string, unknown>[] };
  return labs.find((lab) => lab["name"] === name);
}
