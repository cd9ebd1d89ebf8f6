/** A thread is stopped, read, changed and let go. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { Tracee } from "./ptrace.ts";

const stateOf = (pid: number): string | undefined => /^State:\s+(\S)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];

test("a thread stops, tells its registers, takes others, and runs on", { skip: process.arch !== "x64" }, async () => {
  const child = spawn("perl", ["-e", "1 while 1"], { stdio: "ignore" });
  const pid = child.pid ?? 0;
  {
    using tracee = Tracee.seize(pid);
    assert.ok(tracee);
    while (!tracee.hasStopped) await delay(1);
    assert.equal(stateOf(pid), "t");
    const registers = tracee.registers();
    assert.equal(registers.get("cs"), 0x33n);
    const before = registers.get("r15");
    registers.set("r15", before ^ 1n);
    tracee.setRegisters(registers);
    assert.equal(tracee.registers().get("r15"), before ^ 1n);
    registers.set("r15", before);
    tracee.setRegisters(registers);
  }
  while (stateOf(pid) !== "R") await delay(1);
  child.kill("SIGKILL");
  await once(child, "close");
  assert.equal(Tracee.seize(pid), undefined, "it has ended");
});
