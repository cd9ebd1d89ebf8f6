/** A thread is stopped, read, changed and let go. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { Tracee } from "./ptrace.ts";

const stateOf = (pid: number): string | undefined => /^State:\s+(\S)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];

test("a thread stops, tells its registers, takes others, and runs on", { skip: process.arch !== "x64", timeout: 60_000 }, async () => {
  // Not a child of this process: of those, libuv learns that they stop.
  const parent = spawn("sh", ["-c", "while :; do :; done & echo $!; wait"], { stdio: ["ignore", "pipe", "inherit"] });
  const [said] = (await once(parent.stdout, "data")) as [Buffer]; // as node:stream documents
  const pid = Number(said.toString());
  {
    using tracee = Tracee.seize(pid);
    assert.ok(tracee);
    while (!tracee.hasStopped) await delay(1);
    assert.equal(stateOf(pid), "t");
    const registers = tracee.registers();
    assert.ok(registers);
    assert.equal(registers.get("cs"), 0x33n);
    const before = registers.get("r15");
    registers.set("r15", before ^ 1n);
    tracee.setRegisters(registers);
    assert.equal(tracee.registers()?.get("r15"), before ^ 1n);
    registers.set("r15", before);
    tracee.setRegisters(registers);
  }
  assert.equal(stateOf(pid), "R");
  process.kill(pid, "SIGKILL");
  await once(parent, "close");
  assert.equal(Tracee.seize(pid), undefined, "it has ended");
});
