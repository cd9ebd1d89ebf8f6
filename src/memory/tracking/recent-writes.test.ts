/** What tasks wrote last is told, and afterwards nothing is left in them. Needs root, and a kernel that notes writes. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { ArenaProcess } from "../arena-process.fixture.ts";
import { openUserfaultfd } from "../../kernel/write-protection.ts";
import type { PageRange } from "../page-ranges.ts";
import { RecentWrites } from "./recent-writes.ts";
import { choose, Trackers, trackingFeatures } from "./trackers.ts";

const PROCESS = 7;
const { note } = new Trackers(choose(await trackingFeatures()), openUserfaultfd);

function holds(ranges: readonly PageRange[] | undefined, page: number): boolean {
  return ranges?.some((range) => page >= range.page && page < range.page + range.pageCount) === true;
}

void describe("recent writes", { skip: process.arch !== "x64", timeout: 60_000 }, () => {
  void it("are told, and others are not", async () => {
    await using task = new ArenaProcess(256, 256);
    await task.started();
    for (let page = 0; page < 256; page++) await task.tell(0, "write", page, 1 + page);
    {
      using writes = await RecentWrites.begin([task.pid], note);
      await task.tell(0, "write", 17, 5);
      await task.tell(0, "write", 200, 6);
      const told = writes.told(new Map([[PROCESS, task.pid]])).get(PROCESS);
      const pages = [...Array(256).keys()].filter((page) => holds(told, task.arenaPage + page));
      assert.deepEqual(pages, [17, 200]);
    }
    assert.doesNotMatch(readFileSync(`/proc/${task.pid}/smaps`, "utf8"), /^VmFlags:.* uw/m);
  });

  void it("of a task that has ended, or came since, are not told", async () => {
    await using task = new ArenaProcess(16, 16);
    await task.started();
    await using ended = new ArenaProcess(16, 16);
    await ended.started();
    const { pid } = ended;
    await ended[Symbol.asyncDispose]();
    using writes = await RecentWrites.begin([pid], note);
    assert.deepEqual(writes.told(new Map([[PROCESS, task.pid]])), new Map());
  });
});
