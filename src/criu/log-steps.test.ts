/** Steps from logs as CRIU 4.2 writes them, cut to some of their lines. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { dumpSteps, restoreSteps } from "./log-steps.ts";

test("a dump's steps, those of two processes in pieces, end when the page server starts", () => {
  const log = `(00.000000) CRIU run id = 6b218b4e-5b0d-4383-ba7c-f71feb08cc39
(00.000754) Dumping processes (pid: 720 comm: redis-server)
(00.001000) freezing cgroup /sys/fs/cgroup/freezer/docker/5d3fb5915baa468f062a8
(00.001439) Seized task 720, state 1
(00.002000) mnt: Building mountpoints tree
(00.003000) Collecting mappings (pid: 720)
(00.004500) Handling VMA with the following smaps entry: 7f9bc94c3000-7f9bc94d7000 r-xp 00003000 00:48 2441893
---[ binfmt_misc ]---
(00.005000) Dumping pages (type: 59 pid: 720)
(00.008000) Collecting mappings (pid: 731)
(00.009000) Dumping pages (type: 59 pid: 731)
(00.010000) mnt: Dumping mountpoints
(00.026000) Starting lazy pages server
(00.158578) Accepted connection from 127.0.0.1:43450
`;
  assert.deepEqual(
    dumpSteps(log).map(({ name, startMs, endMs }) => [name, startMs, endMs]),
    [
      ["prepare", -26, -25],
      ["seize tasks", -25, -24],
      ["namespaces", -24, -23],
      ["mappings", -23, -21],
      ["pages", -21, -18],
      ["mappings", -18, -17],
      ["pages", -17, -16],
      ["files in tmpfs", -16, 0],
    ],
  );
});

test("a restore's steps go to the end of its log, and a log that was cut or is none has those that are there", () => {
  const log = `(00.000025) Version: 4.2.1 (gitid 0)
(00.001025) cg: Preparing cgroups yard (cgroups restore mode 0x4)
(00.020025) Running pre-restore scripts
(00.022025) Forking task with 1 pid (flags 0x6c028080)
(00.025025)      1: mnt: Restoring mount namespace
(00.035025) Running post-setup-namespaces scripts
(00.036025) \t[/run/dmigrate/expected/515a/hold]
`;
  assert.deepEqual(
    restoreSteps(log).map(({ name, startMs, endMs }) => [name, startMs, endMs]),
    [
      ["prepare", -36, -35],
      ["cgroups", -35, -16],
      ["action scripts", -16, -14],
      ["fork tasks", -14, -11],
      ["mounts", -11, -1],
      ["action scripts", -1, 0],
    ],
  );
  assert.deepEqual(restoreSteps(""), []);
  assert.deepEqual(restoreSteps("\0\xff(1) (00.1) Running"), []);
});
