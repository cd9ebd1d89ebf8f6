/**
 * The processes of a cgroup and where they came from.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, rmdirSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { after, before, describe, test } from "node:test";
import type { ProcessFacts } from "../core/preflight-facts.ts";
import { isGone } from "./process.ts";
import { readProcesses } from "./processes.ts";

/** The hierarchy that containers are frozen by: v1 or v2, by what is there. */
const HIERARCHY = ["/sys/fs/cgroup/freezer", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"].find((folder) =>
  existsSync(`${folder}/cgroup.procs`),
);

/** Joins the cgroup, as it counts itself (cgroups(7): 0 is the writer). */
const JOIN = 'echo 0 > "$0/cgroup.procs"';
/** Opens /dev/null by the mounts of the container. */
const OWN_NULL = "exec < /dev/null > /dev/null 2>&1";
/** Becomes an idle process of a given name; Perl names itself for the kernel too. */
const BE = "exec perl -e '$0 = shift; sleep 600'";

describe("the processes of a container", () => {
  const cgroup = `${HIERARCHY}/dmigrate-test-${process.pid}`;
  let initPid: number;
  let processes: ProcessFacts[];
  /** Pids in the cgroup, as this machine counts. */
  const inside = (folder = cgroup): number[] => readFileSync(`${folder}/cgroup.procs`, "utf8").split("\n").filter(Boolean).map(Number);
  const nameOf = (pid: number): string => readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  const isThere = (name: string, folder = cgroup): boolean => inside(folder).some((pid) => nameOf(pid) === name);

  before(async () => {
    mkdirSync(`${cgroup}/nested`, { recursive: true });
    const start = (program: string, args: readonly string[], script: string): void => {
      spawn(program, [...args, "sh", "-c", script, cgroup], { stdio: "ignore" });
    };
    const nested = `(echo 0 > "$0/nested/cgroup.procs"; ${BE} nested)`;
    const unshared = `(exec unshare --uts sh -c "${BE.replaceAll("$", "\\$")} unshared")`;
    start("unshare", ["--pid", "--fork", "--mount-proc"], `${JOIN}; ${OWN_NULL}; ${unshared} & (${BE} child) & ${nested} & ${BE} init`);
    await until(() => ["init", "child", "unshared"].every((name) => isThere(name)) && isThere("nested", `${cgroup}/nested`));
    initPid = inside().find((pid) => nameOf(pid) === "init") ?? 0;
    const enter = ["--target", String(initPid), "--pid", "--mount"];
    start("nsenter", enter, `${JOIN}; (${BE} exec-child) & ${BE} exec`);
    start("nsenter", enter, `${JOIN}; (${BE} probe-child) & ${BE} probe`);
    await until(() => ["exec", "exec-child", "probe", "probe-child"].every((name) => isThere(name)));
    start("nsenter", enter, `${JOIN}; exec perl -e 'chroot "/sys"; $0 = "rooted"; sleep 600'`); // the last that is read
    await until(() => isThere("rooted"));
    const probe = inside().find((pid) => nameOf(pid) === "probe") ?? 0;
    processes = await readProcesses(initPid, "/proc", new Set([probe]));
  });

  after(async () => {
    process.kill(initPid, "SIGKILL"); // and with it all of its pid namespace
    await until(() => inside().length === 0 && inside(`${cgroup}/nested`).length === 0);
    rmdirSync(`${cgroup}/nested`);
    rmdirSync(cgroup);
  });

  test("are those of its cgroup and of those below, the init first", () => {
    const names = ["child", "exec", "exec-child", "init", "nested", "probe", "probe-child", "rooted", "unshared"];
    assert.deepEqual(processes.map(({ name }) => name).toSorted(), names);
    assert.deepEqual([processes[0]?.pid, processes[0]?.innerPid, processes[0]?.origin], [initPid, 1, "container"]);
  });

  test("descend from the init, or came in from outside, with their children", () => {
    const origins = Object.fromEntries(processes.map(({ name, origin }) => [name, origin]));
    assert.deepEqual(origins, {
      init: "container",
      child: "container",
      nested: "container",
      unshared: "container",
      exec: "exec",
      rooted: "exec",
      "exec-child": "exec",
      probe: "health-check",
      "probe-child": "health-check",
    });
  });

  test("have the init's namespaces, or tell which not", () => {
    assert.deepEqual(
      processes
        .filter(({ foreignNamespaces }) => foreignNamespaces.length > 0)
        .map(({ name, foreignNamespaces }) => [name, foreignNamespaces]),
      [["unshared", ["uts"]]],
    );
  });

  test("hold files of their own mounts, though one of them sees few of these", () => {
    const started = processes.filter(({ origin }) => origin === "container");
    assert.ok(started.every(({ descriptors }) => descriptors.some((each) => each.kind === "device" && each.path === "/dev/null")));
    assert.ok(started.every(({ descriptors }) => descriptors.every(({ kind }) => kind !== "outside-file")));
  });

  test("can't be read once the init has ended", async () => {
    await assert.rejects(readProcesses(2 ** 30, "/proc", new Set()), (error) => isGone(error));
  });
});

test("fifty processes are read well within the time that a user waits", async (t) => {
  const cgroup = `${HIERARCHY}/dmigrate-test-many-${process.pid}`;
  mkdirSync(cgroup);
  const shell = spawn("sh", ["-c", `${JOIN}; i=0; while [ $i -lt 50 ]; do sleep 600 & i=$((i+1)); done; wait`, cgroup], {
    stdio: "ignore",
  });
  const pids = (): number[] => readFileSync(`${cgroup}/cgroup.procs`, "utf8").split("\n").filter(Boolean).map(Number);
  try {
    await until(() => pids().length === 51);
    const beganAt = performance.now();
    const processes = await readProcesses(shell.pid ?? 0, "/proc", new Set());
    t.diagnostic(`${Math.round(performance.now() - beganAt)} ms`);
    assert.equal(processes.length, 51);
  } finally {
    const ended = once(shell, "exit");
    for (const pid of pids()) process.kill(pid, "SIGKILL");
    await ended;
    await until(() => pids().length === 0);
    rmdirSync(cgroup);
  }
});

/** Waits for what other processes do; the test's own limit ends it. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await delay(5);
}
