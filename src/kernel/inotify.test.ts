/** Closed files are told in time and completely. */
import assert from "node:assert/strict";
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ClosedWrites } from "./inotify.ts";

void describe("closed writes", { timeout: 60_000 }, () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "h3-inotify-"));
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  void it("tells each file as it is closed, not before", async () => {
    using writes = new ClosedWrites(directory);
    const names = writes[Symbol.asyncIterator]();
    const unfinished = openSync(join(directory, "unfinished"), "w");
    writeSync(unfinished, "x");
    const first = names.next();
    writeFileSync(join(directory, "a name with ünicode"), "x");
    assert.deepEqual(await first, { done: false, value: "a name with ünicode" });
    closeSync(unfinished);
    assert.deepEqual(await names.next(), { done: false, value: "unfinished" });
  });

  void it("tells everything that was closed before it was closed itself, then ends", async () => {
    const writes = new ClosedWrites(directory);
    const expected = Array.from({ length: 300 }, (_, i) => `file-${i}`);
    for (const name of expected) writeFileSync(join(directory, name), "");
    writes.close();
    writeFileSync(join(directory, "too late"), "");
    assert.deepEqual(await allOf(writes), expected);
  });

  void it("ends a wait when it is closed, and leaves no descriptor", async () => {
    const before = readdirSync("/proc/self/fd").length;
    const writes = new ClosedWrites(directory);
    const all = allOf(writes);
    setImmediate(() => writes.close());
    assert.deepEqual(await all, []);
    while (readdirSync("/proc/self/fd").length > before) await sleep(1);
  });

  void it("does not tell of files that were only read, nor of those of other directories", async () => {
    writeFileSync(join(directory, "old"), "x");
    using writes = new ClosedWrites(directory);
    closeSync(openSync(join(directory, "old"), "r"));
    writeFileSync(`${directory}-beside`, "x");
    rmSync(`${directory}-beside`);
    writes.close();
    assert.deepEqual(await allOf(writes), []);
  });

  void it("says so when the kernel could not keep all names", async () => {
    const queueLength = Number(readFileSync("/proc/sys/fs/inotify/max_queued_events", "utf8"));
    using writes = new ClosedWrites(directory);
    // Two files by turns, because an event that repeats the last one is merged with it.
    for (let i = 0; i <= queueLength; i++) closeSync(openSync(join(directory, `file-${i % 2}`), "w"));
    await assert.rejects(allOf(writes), { code: "KERNEL", message: /inotify lost events/ });
  });

  void it("refuses what is no directory", () => {
    assert.throws(() => new ClosedWrites(join(directory, "none")), { code: "KERNEL", message: /inotify_add_watch failed: ENOENT/ });
  });
});

async function allOf<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}
