/** A process that made a call for us goes on with what it did. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { temporaryDirectory } from "../../test/support/hosts.ts";
import { killProcess } from "./pidfd.ts";
import { callIn } from "./remote-call.ts";

const GETPID = 39;
/** Not children of this process: libuv would take notice of their stops. */
const start = (program: string): number => Number(execFileSync("sh", ["-c", `${program} <&- >&- 2>&- & echo $!`], { encoding: "utf8" }));
const stateOf = (pid: number): string | undefined => /^State:\s+(\S)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
const callOf = (pid: number): string => readFileSync(`/proc/${pid}/syscall`, "utf8");

async function settled(pid: number, number: string): Promise<void> {
  while (stateOf(pid) !== "S" || !callOf(pid).startsWith(`${number} `)) await pause(1);
}

void describe("a process that made a call for us", { skip: process.arch !== "x64", timeout: 30_000 }, () => {
  void it("sleeps on, by the call that it made itself", async () => {
    const pid = start("exec sleep 600");
    try {
      const number = "230"; // clock_nanosleep
      await settled(pid, number);
      for (let time = 0; time < 3; time++) {
        assert.equal(await callIn(pid, (thread) => thread.call("getpid", GETPID, [])), BigInt(pid));
        await settled(pid, number);
      }
    } finally {
      killProcess(pid);
    }
  });

  void it("stands still meanwhile with all of its threads, and then goes on with all", async () => {
    const pid = start(`exec ${process.execPath} -e 'setInterval(() => {}, 1)'`);
    const states = (name: string): Set<string> => {
      const files = readdirSync(`/proc/${pid}/task`).map((tid) => readFileSync(`/proc/${pid}/task/${tid}/status`, "utf8"));
      return new Set(files.map((text) => new RegExp(`^${name}:\\s+(\\S+)`, "m").exec(text)?.[1] ?? ""));
    };
    try {
      while (readdirSync(`/proc/${pid}/task`).length < 5) await pause(1);
      const during = await callIn(pid, async () => states("State"));
      assert.deepEqual(during, new Set(["t"]));
      assert.deepEqual(states("TracerPid"), new Set(["0"]));
      assert.ok(!states("State").has("T"));
    } finally {
      killProcess(pid);
    }
  });

  void it("may be about to run another program: it makes the call in the one that it has when it stands still", async (t) => {
    const program = path.join(temporaryDirectory(t), "again");
    writeFileSync(program, '#!/bin/sh\nexec "$0"\n', { mode: 0o755 });
    const pid = start(program);
    try {
      for (let time = 0; time < 300; time++) {
        assert.equal(await callIn(pid, (thread) => thread.call("getpid", GETPID, [])), BigInt(pid));
      }
      assert.match(stateOf(pid) ?? "", /[RSD]/);
    } finally {
      killProcess(pid);
    }
  });

  void it("is not told of a signal that there never was", async () => {
    const program = 'syscall(213, 1) >= 0 or die; my $e = syscall(291, 0); my $r = syscall(232, $e, my $b = " " x 12, 1, 600000); exit 1';
    const pid = start(`exec perl -e '${program}'`);
    try {
      await settled(pid, "232"); // epoll_wait
      await callIn(pid, (thread) => thread.call("getpid", GETPID, []));
      await settled(pid, "232");
    } finally {
      killProcess(pid);
    }
  });
});
