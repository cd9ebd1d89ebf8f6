/** How tasks are tracked on a host, and those that can't be tracked so. Needs root. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { describe, it } from "node:test";
import { openUserfaultfd } from "../../kernel/write-protection.ts";
import { ArenaProcess } from "../arena-process.fixture.ts";
import { KERNEL } from "./adapters.fixture.ts";
import { Copy } from "./copy.fixture.ts";
import { choose, Trackers, trackingFeatures } from "./trackers.ts";

async function started(pageCount: number): Promise<ArenaProcess> {
  const task = new ArenaProcess(pageCount, pageCount);
  await task.started();
  await task.tell(0, "fill", 0, pageCount, 1000);
  return task;
}

function limitDescriptors(pid: number, count: number): void {
  execFileSync("prlimit", ["--pid", String(pid), `--nofile=${count}:1024`]);
}

void describe("trackers", { skip: process.arch !== "x64", timeout: 60_000 }, () => {
  void it("use the best means that the kernel has", () => {
    assert.deepEqual(choose({ "write-protection": true, "soft-dirty": true }), ["write-protection", "soft-dirty"]);
    assert.deepEqual(choose({ "write-protection": false, "soft-dirty": true }), ["soft-dirty"]);
    assert.deepEqual(choose({ "write-protection": false, "soft-dirty": false }), []);
  });

  void it("find out what the kernel has", async () => {
    assert.deepEqual(await trackingFeatures(), KERNEL);
  });

  void it("compare the memory of a small task that can't be tracked otherwise", async () => {
    await using task = await started(100);
    limitDescriptors(task.pid, 6); // it has them all, so no userfaultfd can be made in it
    const trackers = new Trackers(["write-protection"], openUserfaultfd);
    await assert.rejects(trackers.note(task.pid), { code: "KERNEL" });
    using copy = new Copy(task.pid, await trackers.track(task.pid));
    limitDescriptors(task.pid, 1024);
    assert.ok((await copy.round()) > 100);
    await task.tell(0, "write", 3, 7);
    const laterCount = await copy.round();
    assert.ok(laterCount >= 1 && laterCount < 100, `${laterCount} pages`);
    assert.ok((await copy.assertComplete()) > 100);
  });

  void it("do not compare more than 16 MB of one container", async () => {
    await using small = await started(2000);
    await using other = await started(2000);
    const trackers = new Trackers([], openUserfaultfd);
    using tracker = await trackers.track(small.pid);
    await assert.rejects(trackers.track(other.pid), { code: "KERNEL" });
    tracker[Symbol.dispose]();
    using copy = new Copy(other.pid, await trackers.track(other.pid));
    assert.ok((await copy.round()) > 2000);
  });

  void it("give up a task that has grown too large to be compared", async () => {
    await using task = new ArenaProcess(5000, 5000);
    await task.started();
    using tracker = await new Trackers([], openUserfaultfd).track(task.pid);
    tracker.written();
    await task.tell(0, "fill", 0, 5000, 1000);
    assert.throws(() => tracker.written(), { code: "KERNEL" });
    assert.throws(() => tracker.writtenByNow(), { code: "KERNEL" });
  });
});
