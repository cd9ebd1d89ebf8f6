/** A dump that waits for a stopped and frozen task: seen, and let go on. The kernel's cgroup v2 has no such wait. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, rmdirSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { stateOf } from "../kernel/tasks.ts";
import { freezerAt } from "./freezer.ts";
import { StallWatch, whenStalled } from "./stalled-dump.ts";

const FREEZER = "/sys/fs/cgroup/freezer";
const SEIZE = "syscall($ARGV[0] + 0, 0x4206, $ARGV[1] + 0, 0, 0); sleep 600";
const PTRACE = process.arch === "arm64" ? 117 : 101; // its number as a system call

async function untilState(pid: number, state: string): Promise<void> {
  while (stateOf(pid) !== state) await sleep(5);
}

test(
  "a dump that waits for a frozen task is told, and goes on once that runs",
  { timeout: 30_000, skip: !existsSync(FREEZER) },
  async (t) => {
    const folder = `${FREEZER}/dmigrate-stalled-${process.pid}`;
    mkdirSync(folder);
    const task = spawn("sh", ["-c", 'echo 0 > "$0/cgroup.procs"; echo; kill -STOP $$; exec sleep 600', folder]);
    const pid = task.pid ?? 0;
    await once(task.stdout, "data");
    await untilState(pid, "T");
    const freezer = freezerAt(folder);
    await freezer?.freeze();
    const criu = spawn("perl", ["-e", SEIZE, String(PTRACE), String(pid)], { argv0: `criu: dump --rpc -t ${pid}`, stdio: "inherit" });
    t.after(async () => {
      await freezer?.thaw();
      const ended = [once(criu, "exit"), once(task, "exit")];
      for (const each of [criu, task]) each.kill("SIGKILL");
      await Promise.all(ended);
      rmdirSync(folder);
    });

    const settled = new AbortController();
    await whenStalled(pid, settled.signal);
    assert.equal(stateOf(criu.pid ?? 0), "D");
    const watch = new StallWatch(pid);
    assert.equal(await watch.isStalled(), false); // not for long yet, as far as this one knows
    await watch.release();
    await untilState(criu.pid ?? 0, "S");
    assert.equal(await freezer?.isFrozen(), false);
  },
);
