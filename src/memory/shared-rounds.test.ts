/** Rounds of shared memory, from real processes into a store and out of it: what is there is what they have. Needs root, and Linux 6.7. */
import assert from "node:assert/strict";
import { closeSync, fstatSync, openSync, readFileSync, readSync } from "node:fs";
import { describe, it } from "node:test";
import * as fc from "fast-check";
import { until } from "../../lab/host.ts";
import { killProcess } from "../kernel/pidfd.ts";
import { mappedFile } from "../kernel/shared-objects.ts";
import { ArenaProcess, SLOTS } from "./arena-process.fixture.ts";
import { FRAME_PAGES_MAX } from "../wire/trunk-frames.ts";
import { PAGE_BYTES, type PageRun } from "./page-protocol.ts";
import { PageStore } from "./page-store.ts";
import type { RoundSink, Tasks } from "./rounds.ts";
import { SharedRounds } from "./shared-rounds.ts";

const PAGES = 512;

/** A store into which rounds go as over a trunk: frame by frame, pages of zeros without their bytes. */
class Sink extends PageStore implements RoundSink {
  takenCount = 0;

  async sendPages(runs: Iterable<PageRun>, read: (run: PageRun, into: Uint8Array) => number): Promise<void> {
    for (const run of runs) {
      for (let done = 0; done < run.pageCount; done += FRAME_PAGES_MAX) {
        const part = { ...run, page: run.page + done, pageCount: Math.min(FRAME_PAGES_MAX, run.pageCount - done) };
        const bytes = new Uint8Array(Buffer.allocUnsafeSlow(part.pageCount * PAGE_BYTES).buffer);
        assert.equal(read(part, bytes), part.pageCount);
        for (let page = 0; page < part.pageCount; page++) {
          const content = bytes.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
          this.take({ ...part, page: part.page + page, pageCount: 1 }, content.some((byte) => byte !== 0) ? content : undefined);
        }
        this.takenCount += part.pageCount;
      }
    }
  }

  async send(): Promise<void> {
    assert.fail("a round of shared memory has nothing but pages");
  }
}

async function started(): Promise<ArenaProcess> {
  const task = new ArenaProcess(PAGES, PAGES, undefined, true);
  await task.started();
  await task.tell(0, "fill", 0, PAGES, 1000);
  return task;
}

function childrenOf({ pid }: ArenaProcess): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean).map(Number);
}

/** Processes that do nothing while they are looked at. */
function standing(task: ArenaProcess): Tasks {
  return { pids: () => [task.pid, ...childrenOf(task)], hold: async () => ({ [Symbol.asyncDispose]: async () => {} }) };
}

/** Completes the store, and asserts that what comes out of it is what the processes have; returns how many pages were sent for that. */
async function assertCompletes(rounds: SharedRounds, store: Sink): Promise<number> {
  const objects = rounds.objects();
  const before = store.takenCount;
  await rounds.last(objects)(store);
  for (const [inode, { mappings }] of objects) {
    const { object, size } = rounds.describe(inode);
    const actual = openSync(mappedFile(mappings[0].pid, mappings[0].mapping), "r");
    try {
      assert.equal(fstatSync(actual).size, size);
      assertEqual(store.fileOf(object, size / PAGE_BYTES), actual, size);
    } finally {
      closeSync(actual);
    }
  }
  return store.takenCount - before;
}

function assertEqual(copy: number, actual: number, size: number): void {
  const [copied, expected] = [Buffer.alloc(PAGE_BYTES), Buffer.alloc(PAGE_BYTES)];
  for (let at = 0; at < size; at += PAGE_BYTES) {
    for (const [fd, into] of [
      [copy, copied],
      [actual, expected],
    ] as const)
      readSync(fd, into, 0, PAGE_BYTES, at);
    assert.ok(copied.equals(expected), `page ${at / PAGE_BYTES} has ${copied.readUInt32LE(0)} instead of ${expected.readUInt32LE(0)}`);
  }
}

async function fork(task: ArenaProcess, slot: number): Promise<void> {
  await task.tell(0, "fork", 3 + slot);
  await task.answer(slot);
}

function isTracked({ pid }: ArenaProcess): boolean {
  return /^VmFlags:.* uw\b/m.test(readFileSync(`/proc/${pid}/smaps`, "utf8"));
}

/** Ends the child that was forked last. */
async function endChild(task: ArenaProcess): Promise<void> {
  const child = childrenOf(task).at(-1) ?? 0;
  killProcess(child);
  await until("a child to end", async () => readFileSync(`/proc/${child}/maps`, "utf8") === "");
}

void describe("rounds of shared memory", { skip: process.arch !== "x64", timeout: 120_000 }, () => {
  void it("bring all, then what was written, by whichever process", async () => {
    await using task = await started();
    await fork(task, 1);
    using store = new Sink(Infinity);
    using rounds = new SharedRounds(standing(task));
    await rounds.round(store);
    assert.equal(store.pageCount, PAGES);
    assert.ok(isTracked(task));
    await task.tell(0, "write", 3, 7);
    await task.tell(1, "write", 300, 8);
    await rounds.round(store);
    await task.tell(1, "write", 4, 9);
    assert.equal(await assertCompletes(rounds, store), 1);
  });

  for (const [what, act] of Object.entries({
    "a child that was forked after the last round, and has ended": async (task: ArenaProcess) => {
      await fork(task, 2);
      await task.tell(2, "write", 5, 11);
      await endChild(task);
    },
    "a child that has ended since": async (task: ArenaProcess) => {
      await task.tell(1, "write", 6, 12);
      await endChild(task);
    },
    "what was given up, and looked at again": async (task: ArenaProcess) => {
      await task.tell(0, "remove", 7, 3);
      await task.tell(1, "read", 7, 3);
    },
    "what was written and then dropped from the page tables": async (task: ArenaProcess) => {
      await task.tell(0, "write", 11, 13);
      await task.tell(0, "empty", 0, PAGES);
    },
    "what was written and is not mapped there any more": async (task: ArenaProcess) => {
      await task.tell(1, "write", 12, 14);
      await task.tell(1, "unmap", 12, 20);
    },
    "what was written and has moved": async (task: ArenaProcess) => {
      await task.tell(1, "write", 12, 14);
      await task.tell(1, "move", 12, 20, 100);
      await task.tell(1, "write", 101, 15);
    },
    "what another program wrote before it was another": async (task: ArenaProcess) => {
      await task.tell(0, "write", 13, 16);
      await task.execute();
    },
  })) {
    void it(`miss nothing of ${what}`, async () => {
      await using task = await started();
      await fork(task, 1);
      using store = new Sink(Infinity);
      using rounds = new SharedRounds(standing(task));
      await rounds.round(store);
      await rounds.round(store);
      await act(task);
      assert.ok((await assertCompletes(rounds, store)) > 0);
    });
  }

  void it("go on without tracking what forks often, and miss nothing", async () => {
    await using task = await started();
    using store = new Sink(Infinity);
    using rounds = new SharedRounds(standing(task));
    await rounds.round(store);
    for (let child = 0; child < 40; child++) {
      await fork(task, 1);
      await task.tell(1, "write", 20 + child, 21);
      await endChild(task);
    }
    assert.equal(isTracked(task), false);
    await rounds.round(store);
    assert.equal(isTracked(task), false);
    await task.tell(0, "write", 70, 22);
    assert.ok((await assertCompletes(rounds, store)) > 0);
  });

  void it("leave out small memory", async () => {
    await using task = new ArenaProcess(16, 16, undefined, true);
    await task.started();
    await task.tell(0, "fill", 0, 16, 1000);
    using store = new Sink(Infinity);
    using rounds = new SharedRounds(standing(task));
    await rounds.round(store);
    assert.deepEqual([store.pageCount, rounds.objects().size], [0, 0]);
  });

  void it("whatever processes do, what is in the store in the end is what they have", async () => {
    const page = fc.nat(PAGES - 1);
    const command = fc.record({
      kind: fc.constantFrom("write", "write", "write", "read", "empty", "remove", "unmap", "map", "move", "fork", "end"),
      slot: fc.nat(SLOTS - 1),
      page,
      to: page,
      count: fc.integer({ min: 1, max: 40 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(command, { maxLength: 60 }), fc.integer({ min: 1, max: 9 }), async (commands, every) => {
        await using task = await started();
        using store = new Sink(Infinity);
        using rounds = new SharedRounds(standing(task));
        const slots = [Array.from({ length: PAGES }, () => true)]; // of each process, which pages it can use
        for (const [at, { kind, slot, page: from, to, count: wanted }] of commands.entries()) {
          const usable = slots[slot % slots.length] ?? [];
          const count = Math.min(wanted, PAGES - from, PAGES - to);
          const isUsable = usable.slice(from, from + count).every(Boolean);
          const tell = (...numbers: number[]): Promise<string> => task.tell(slots.indexOf(usable), kind, ...numbers);
          if (kind === "fork" && slots.length < SLOTS) {
            await fork(task, slots.length);
            slots.push([...(slots[0] ?? [])]);
          } else if (kind === "end" && slots.length > 1) {
            await endChild(task);
            slots.pop();
          } else if (kind === "write" && usable[from] === true) await tell(from, 10_000 + at);
          else if (kind === "read" && isUsable) await tell(from, count);
          else if (kind === "empty" || kind === "remove" || kind === "unmap" || kind === "map") {
            await tell(from, count);
            if (kind === "unmap" || kind === "map") usable.fill(kind === "map", from, from + count);
          } else if (kind === "move" && isUsable && Math.abs(from - to) >= count) {
            const hasMoved = (await tell(from, count, to, 0)) === "1";
            usable.fill(!hasMoved, from, from + count);
            usable.fill(true, to, to + count);
          }
          if (at % every === 0) await rounds.round(store);
        }
        await assertCompletes(rounds, store);
      }),
      { numRuns: Number(process.env["ROUNDS_TEST_RUNS"] ?? 8) },
    );
  });
});
