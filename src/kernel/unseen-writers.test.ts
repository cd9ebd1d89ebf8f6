/** Asynchronous I/O of a process is seen as long as it has a context for it. Needs root. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { killProcess } from "./pidfd.ts";
import { hasUnseenWriters } from "./unseen-writers.ts";

/** Runs a program of Perl that ends with a long sleep, and returns once it sleeps. Not a child of this process. */
async function start(program: string): Promise<number> {
  const pid = Number(execFileSync("sh", ["-c", `exec perl -e '${program}; sleep 600' <&- >&- 2>&- & echo $!`], { encoding: "utf8" }));
  while (!readFileSync(`/proc/${pid}/syscall`, "utf8").startsWith("230 ")) await pause(1); // clock_nanosleep
  return pid;
}

const PROGRAMS: Readonly<Record<string, readonly [program: string, expected: boolean]>> = {
  nothing: ["1", false],
  "a context of io_setup": ["my $c = pack(q(Q), 0); syscall(206, 8, $c) == 0 or die", true],
  "a ring of io_uring": ["my $p = chr(0) x 120; syscall(425, 8, $p) >= 0 or die", true],
};

for (const [what, [program, expected]] of Object.entries(PROGRAMS)) {
  test(`of a process with ${what}`, { skip: process.arch !== "x64", timeout: 20_000 }, async () => {
    const pid = await start(program);
    try {
      assert.equal(hasUnseenWriters(pid), expected);
    } finally {
      killProcess(pid);
    }
  });
}

test("a process that has ended has none to be seen", () => {
  assert.throws(() => hasUnseenWriters(2 ** 22 + 1), { code: "ENOENT" });
});
