/** Calls of the C library: their results, their errors, and waiting for descriptors. */
import assert from "node:assert/strict";
import { closeSync, readdirSync, writeSync } from "node:fs";
import { describe, it } from "node:test";
import { setImmediate as immediate } from "node:timers/promises";
import { DmigrateError } from "../core/errors.ts";
import { declare, failedWith, must, mustUnless, readable } from "./libc.ts";

const [EBADF, EINVAL] = [9, 22];
const pipe = declare<(ends: Int32Array) => number>("int pipe(void *ends)");
const dup = declare<(fd: number) => number>("int dup(int fd)");

void describe("a call of the C library", () => {
  void it("gives what it returns", () => {
    const fd = must("dup", dup(0));
    assert.ok(fd > 0);
    closeSync(fd);
  });

  void it("that fails is a KERNEL error with its name, and with the system's error as cause", () => {
    assert.throws(
      () => must("dup", dup(-1)),
      (error) => {
        assert.ok(error instanceof DmigrateError);
        assert.equal(error.code, "KERNEL");
        assert.match(error.message, /^dup failed: EBADF/);
        return failedWith("EBADF", error) && !failedWith("ENOENT", error);
      },
    );
  });

  void it("may fail in ways that are expected", () => {
    assert.equal(mustUnless("dup", dup(-1), EINVAL, EBADF), undefined);
    assert.throws(() => mustUnless("dup", dup(-1), EINVAL), { code: "KERNEL" });
  });
});

void describe("readable", { timeout: 60_000 }, () => {
  const pipeOf = (): { readEnd: number; writeEnd: number } & Disposable => {
    const ends = new Int32Array(2);
    must("pipe", pipe(ends));
    const [readEnd = -1, writeEnd = -1] = ends;
    return { readEnd, writeEnd, [Symbol.dispose]: () => [readEnd, writeEnd].forEach(closeSync) };
  };

  void it("waits until there is something to read", async () => {
    using ends = pipeOf();
    const wait = readable(ends.readEnd, new AbortController().signal);
    assert.equal(await Promise.race([wait, immediate("still waiting")]), "still waiting");
    writeSync(ends.writeEnd, "x");
    assert.equal(await wait, true);
  });

  void it("ends without when it is aborted", async () => {
    using ends = pipeOf();
    const abort = new AbortController();
    const wait = readable(ends.readEnd, abort.signal);
    assert.equal(await Promise.race([wait, immediate("still waiting")]), "still waiting");
    abort.abort();
    assert.equal(await wait, false);
    assert.equal(await readable(ends.readEnd, abort.signal), false);
  });

  void it("leaves no descriptor behind", async () => {
    using ends = pipeOf();
    writeSync(ends.writeEnd, "x");
    const before = readdirSync("/proc/self/fd").length;
    await readable(ends.readEnd, new AbortController().signal);
    assert.equal(readdirSync("/proc/self/fd").length, before);
  });
});
