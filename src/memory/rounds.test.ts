/** Rounds of memory, from real processes into a store: what is in it after the freeze is what they have. Needs root, and Linux 6.7. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Readable } from "node:stream";
import { describe, it } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import * as fc from "fast-check";
import { mappingsOf } from "../kernel/maps.ts";
import { Pagemap } from "../kernel/pagemap.ts";
import { readMemory } from "../kernel/process-memory.ts";
import { processIn } from "../kernel/tasks.ts";
import { FRAME_PAGES_MAX } from "../wire/trunk-frames.ts";
import { arenaCommands, obey, type Model } from "./arena-commands.fixture.ts";
import { ArenaProcess } from "./arena-process.fixture.ts";
import { PAGE_BYTES } from "./page-protocol.ts";
import { PageStore } from "./page-store.ts";
import { MemoryRounds, type RoundSink, type Tasks } from "./rounds.ts";
import { isTracked } from "./tracking/tracker.ts";

const ARENA_PAGES = 512;
const USED_PAGES = 256;

async function started(): Promise<ArenaProcess> {
  const task = new ArenaProcess(ARENA_PAGES, USED_PAGES);
  await task.started();
  return task;
}

/** The processes of the arena: the first one and its forked children. */
function pidsOf({ pid }: ArenaProcess): number[] {
  return [pid, ...readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean).map(Number)];
}

/** Processes that do nothing while they are looked at. */
function standing(pids: () => number[]): Tasks {
  return { pids, hold: async () => ({ [Symbol.asyncDispose]: async () => {} }) };
}

/** Brings a round into a store, as much of it read at once as in a frame of a trunk. */
function into(store: PageStore): RoundSink {
  return {
    sendPages: async (runs, read) => {
      for (const run of runs) {
        for (let page = run.page; page < run.page + run.pageCount; page += FRAME_PAGES_MAX) {
          const part = { ...run, page, pageCount: Math.min(FRAME_PAGES_MAX, run.page + run.pageCount - page) };
          const bytes = Buffer.alloc(part.pageCount * PAGE_BYTES);
          const pageCount = read(part, bytes);
          if (pageCount > 0) store.take({ ...part, pageCount }, bytes.subarray(0, pageCount * PAGE_BYTES));
          await turn();
        }
      }
    },
    send: async (bytes) => await store.takeHoles(Readable.from([bytes])),
  };
}

/** What a freeze tells the store: the processes do nothing just now. */
function settle(store: PageStore, rounds: MemoryRounds, pids: readonly number[]): void {
  store.settle(rounds.told(new Map(pids.map((pid) => [processIn(pid), pid]))));
}

/** Asserts that each page in the store is what the process has there, if it has something; returns how many there are. */
function assertRight(store: PageStore, pid: number): number {
  using pagemap = new Pagemap(pid);
  const process = processIn(pid);
  const [stored, actual] = [Buffer.alloc(PAGE_BYTES), Buffer.alloc(PAGE_BYTES)];
  let pageCount = 0;
  for (const mapping of mappingsOf(pid).filter(isTracked)) {
    for (const { start, end } of pagemap.present(mapping)) {
      for (const run of store.within(process, { page: start / PAGE_BYTES, pageCount: (end - start) / PAGE_BYTES })) {
        for (let page = run.page; page < run.page + run.pageCount; page++) {
          store.read({ process, page, pageCount: 1 }, stored);
          if (readMemory(pid, page * PAGE_BYTES, actual) < PAGE_BYTES) continue; // not accessible
          assert.ok(stored.equals(actual), `page ${page} is another one`);
          pageCount += 1;
        }
      }
    }
  }
  return pageCount;
}

void describe("rounds", { skip: process.arch !== "x64", timeout: 120_000 }, () => {
  void it("bring all pages, then those that were written; what was written last is not in the store", async () => {
    await using task = await started();
    const { pid, arenaPage } = task;
    for (let page = 0; page < 100; page++) await task.tell(0, "write", page, 1000 + page);
    using store = new PageStore(Infinity);
    using rounds = new MemoryRounds(standing(() => [pid]));
    await rounds.round(into(store));
    const all = store.pageCount;
    assert.ok(all > 100, `${all} pages`);
    await task.tell(0, "write", 3, 7);
    await rounds.round(into(store));
    await task.tell(0, "write", 4, 8);
    settle(store, rounds, [pid]);
    assert.deepEqual(
      [2, 3, 4, 5].map((page) => store.has(pid, arenaPage + page)),
      [true, true, false, true],
    );
    assert.ok(assertRight(store, pid) > all / 2);
  });

  void it("are counted: what crossed in each, and what was written since it began", async () => {
    await using task = await started();
    const written = async (pages: readonly number[]): Promise<void> => {
      for (const page of pages) await task.tell(0, "write", page, 7);
    };
    await written([1, 2, 3]);
    using store = new PageStore(Infinity);
    using rounds = new MemoryRounds(standing(() => [task.pid]));
    await rounds.round(into(store));
    const all = store.pageCount;
    await rounds.round(into(store)); // what the process needs to take an order is written, too
    const idle = rounds.counts[1]?.pageCount ?? NaN;
    await written(Array.from({ length: 100 }, (_, page) => page));
    await rounds.round(into(store));
    await written(Array.from({ length: 50 }, (_, page) => page));
    settle(store, rounds, [task.pid]);
    const [first, second, third] = rounds.counts;
    assert.deepEqual([first?.pageCount, first?.writtenCount, second?.writtenCount], [all, idle, third?.pageCount]);
    const [thirdCount, lastCount] = [third?.pageCount ?? NaN, third?.writtenCount ?? NaN];
    assert.ok(thirdCount >= 100 && thirdCount < 200 && lastCount >= 50 && lastCount < thirdCount, `${thirdCount}, ${lastCount}`);
  });

  void it("leave out what a process does not tell in the freeze", async () => {
    await using task = await started();
    await using other = await started();
    using store = new PageStore(Infinity);
    using rounds = new MemoryRounds(standing(() => [task.pid]));
    await rounds.round(into(store));
    settle(store, rounds, [other.pid]);
    assert.equal(store.pageCount, 0);
  });

  void it("leave no page that a process does not have, if it runs another program by the freeze, or only then came", async () => {
    await using task = await started();
    for (let page = 0; page < 100; page++) await task.tell(0, "write", page, 1000 + page);
    using store = new PageStore(Infinity);
    using rounds = new MemoryRounds(standing(() => [task.pid]));
    await rounds.round(into(store));
    await task.execute();
    await task.tell(0, "write", 3, 7);
    await task.tell(0, "fork", 4);
    await task.answer(1);
    const [, child = NaN] = pidsOf(task);
    settle(store, rounds, [task.pid, child]);
    assertRight(store, task.pid);
    assert.deepEqual([store.has(processIn(task.pid), task.arenaPage + 3), assertRight(store, child)], [false, 0]);
  });

  void it("go on without a process that has ended, whenever that was, and nothing of it stays in the store", async () => {
    await using task = await started();
    await using ended = await started();
    const ending = processIn(ended.pid);
    using store = new PageStore(Infinity);
    using rounds = new MemoryRounds(standing(() => [task.pid, ended.pid]));
    const sink = into(store);
    await rounds.round({
      ...sink,
      sendPages: async (runs, read) => {
        await ended[Symbol.asyncDispose](); // while it is read
        await sink.sendPages(runs, read);
      },
    });
    await rounds.round(sink);
    settle(store, rounds, [task.pid]);
    assert.ok(assertRight(store, task.pid) > 0);
    assert.deepEqual([...store.within(ending, { page: 0, pageCount: 2 ** 35 })], []);
  });

  void it("leave out a process into which the kernel may write behind its back", async () => {
    await using task = await started();
    using store = new PageStore(Infinity);
    using rounds = new MemoryRounds(standing(() => [task.pid]));
    await rounds.round(into(store));
    assert.equal(rounds.unseenCount, 0);
    await task.tell(0, "asynchronous");
    await rounds.round(into(store));
    settle(store, rounds, [task.pid]);
    assert.deepEqual([rounds.unseenCount, store.pageCount], [1, 0]);
  });

  void it("bring no more than the store has room for", async () => {
    await using task = await started();
    for (let page = 0; page < 100; page++) await task.tell(0, "write", page, 1000 + page);
    using store = new PageStore(50);
    using rounds = new MemoryRounds(standing(() => [task.pid]));
    await rounds.round(into(store));
    settle(store, rounds, [task.pid]);
    assert.ok(store.pageCount <= 50);
    assertRight(store, task.pid);
  });

  void it("whatever processes do to their memory, no wrong page stays in the store", async () => {
    await fc.assert(
      fc.asyncProperty(arenaCommands(ARENA_PAGES, { maxLength: 60 }), fc.integer({ min: 1, max: 9 }), async (commands, every) => {
        await using task = await started();
        using store = new PageStore(Infinity);
        using rounds = new MemoryRounds(standing(() => pidsOf(task)));
        const models: Model[] = [Array.from({ length: ARENA_PAGES }, (_, page) => (page < USED_PAGES ? 0 : undefined))];
        for (const [at, [slot, command]] of commands.entries()) {
          await obey(task, models, slot % models.length, command);
          if (at % every === 0) await rounds.round(into(store));
        }
        settle(store, rounds, pidsOf(task));
        for (const pid of pidsOf(task)) assertRight(store, pid);
      }),
      { numRuns: Number(process.env["ROUNDS_TEST_RUNS"] ?? 8) },
    );
  });
});
