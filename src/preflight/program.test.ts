/**
 * What becomes of programs that work, fail, or are missing.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { complaint, feature, run } from "./program.ts";

test("a program that works is a feature, with its version", async () => {
  assert.deepEqual(feature(await run("true", []), "1.0"), { works: true, version: "1.0" });
});

test("one that fails says why, one that is missing is named", async () => {
  assert.deepEqual(feature(await run("ls", ["/missing/file"]), ""), {
    works: false,
    reason: "ls: cannot access '/missing/file': No such file or directory",
  });
  assert.deepEqual(feature(await run("no-such-program", []), ""), { works: false, reason: "no-such-program is not installed" });
  assert.deepEqual(feature(await run("/etc/passwd", []), ""), { works: false, reason: "/etc/passwd may not be executed" });
  assert.deepEqual(feature(await run("sh", ["-c", "kill -SEGV $$"]), ""), { works: false, reason: "sh was ended by SIGSEGV" });
});

test("of CRIU's log the errors remain, without where they are in its source and without the one it always has", () => {
  const log = [
    "Warn  (criu/kerndat.c:1245): Stale /run/criu.kdat file",
    "Error (criu/util.c:1533): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted",
    "(00.011) Error (criu/sockets.c:628): sockets: Can't get 1:16 opt: Operation not supported",
    "(00.012) Error (criu/cr-dump.c:2111): Dumping FAILED.",
  ].join("\n");
  assert.equal(complaint(log), "sockets: Can't get 1:16 opt: Operation not supported, Dumping FAILED.");
});
