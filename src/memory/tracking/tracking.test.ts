/**
 * The same of each tracker: a page that a process writes is never missed, and the process is left as it was. Needs root; an adapter whose
 * means the kernel lacks is skipped.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { describe, it, type TestContext } from "node:test";
import { setImmediate, setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import * as fc from "fast-check";
import { ADVICE, allCommands, obey, TABLE_PAGES, type Model } from "../arena-commands.fixture.ts";
import { readMemory } from "../../kernel/process-memory.ts";
import { ArenaProcess } from "../arena-process.fixture.ts";
import { ADAPTERS } from "./adapters.fixture.ts";
import { Copy } from "./copy.fixture.ts";

const ARENA_PAGES = 4 * TABLE_PAGES;
const USED_PAGES = 2 * TABLE_PAGES;
/** Perl writes some of its own. */
const FEW_PAGES = 200;
const MADV_FREE = 8;
const BUSY_ROUNDS = 8;

const BUSY_FIXTURE = fileURLToPath(new URL("../busy-process.fixture.ts", import.meta.url));
const TRACKING_FIXTURE = fileURLToPath(new URL("tracking-process.fixture.ts", import.meta.url));

async function started(): Promise<ArenaProcess> {
  const task = new ArenaProcess(ARENA_PAGES, USED_PAGES);
  await task.started();
  return task;
}

/** The processes of the arena: the first one and its forked children. */
function pidsOf({ pid }: ArenaProcess): number[] {
  return [pid, ...readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean).map(Number)];
}

/** What there is of a process to be seen from outside; its writes are noted anew whenever somebody asks for it. */
function stateOf(pid: number): object {
  const textOf = (file: string): string => readFileSync(`/proc/${pid}/${file}`, "utf8");
  const descriptors = readdirSync(`/proc/${pid}/fd`).map((fd) => `${fd} ${readlinkSync(`/proc/${pid}/fd/${fd}`)}`);
  const signals = textOf("status").match(/^(Sig[A-Z][a-z]|Shd|TracerPid|Threads|VmLck).*$/gm);
  const flags = textOf("smaps")
    .match(/^VmFlags:.*$/gm)
    ?.map((line) => line.replace(" sd", ""));
  return { descriptors, signals, flags, maps: textOf("maps"), call: textOf("syscall") };
}

/** Waits until a process waits for what it is to do. */
async function isAsleep(pid: number): Promise<void> {
  while (!readFileSync(`/proc/${pid}/status`, "utf8").includes("State:\tS")) await setImmediate();
}

function swappedPages(pid: number): number {
  return Number(/^VmSwap:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 4;
}

function hugePagesKilobytes(pid: number): number {
  return Number(/^AnonHugePages:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1]);
}

for (const [name, { begin, skip }] of Object.entries(ADAPTERS)) {
  void describe(`tracking by ${name}`, { skip, timeout: 600_000 }, () => {
    /** A process and its copy; then each change with a round before it and after it. */
    const afterEach = async (...changes: readonly ((task: ArenaProcess) => Promise<unknown>)[]): Promise<void> => {
      await using task = await started();
      await task.tell(0, "fill", 0, 2 * TABLE_PAGES, 1000);
      using copy = new Copy(task.pid, await begin(task.pid));
      await copy.round();
      for (const change of changes) {
        await change(task);
        await copy.assertComplete(); // as in a freeze
        await copy.round();
        assert.ok((await copy.assertComplete()) > TABLE_PAGES);
      }
    };

    void it("tells all pages at first, then those that were written", async () => {
      await using task = await started();
      await task.tell(0, "fill", 0, TABLE_PAGES, 1000);
      using copy = new Copy(task.pid, await begin(task.pid));
      assert.ok((await copy.round()) > TABLE_PAGES);
      await task.tell(0, "write", 3, 7);
      const laterCount = await copy.round();
      assert.ok(laterCount >= 1 && laterCount < FEW_PAGES, `${laterCount} pages`);
      assert.ok((await copy.assertComplete()) > TABLE_PAGES);
    });

    void it("tells in the freeze what was written since, and again at the next call", async () => {
      await using task = await started();
      await task.tell(0, "fill", 0, 10, 1000);
      using tracker = await begin(task.pid);
      for (const { start, end } of tracker.written()) {
        const bytes = Buffer.alloc(end - start);
        tracker.copied(start, bytes.subarray(0, readMemory(task.pid, start, bytes)));
      }
      await task.tell(0, "write", 3, 7);
      await isAsleep(task.pid);
      const told = tracker.writtenByNow();
      const address = (task.arenaPage + 3) * 4096;
      assert.ok(told.some(({ start, end }) => start <= address && address < end));
      assert.deepEqual(tracker.writtenByNow(), told);
      assert.deepEqual(tracker.written(), told);
    });

    void it("sees what another mapping, or other memory, brings to the same place", () =>
      afterEach(
        (task) => task.tell(0, "map", 0, 20).then(() => task.tell(0, "write", 5, 1)),
        (task) => task.tell(0, "move", 0, 20, 100, 0),
        (task) => task.tell(0, "move", 100, 20, 90, 1),
        (task) => task.tell(0, "empty", 200, 20).then(() => task.tell(0, "write", 205, 2)),
      ));

    void it("sees whole page tables that move", () =>
      afterEach(
        (task) => task.tell(0, "move", 0, TABLE_PAGES, 2 * TABLE_PAGES, 0),
        // Two take each other's place: the mappings look as before.
        async (task) => {
          await task.tell(0, "move", TABLE_PAGES, TABLE_PAGES, 3 * TABLE_PAGES, 0);
          await task.tell(0, "move", 2 * TABLE_PAGES, TABLE_PAGES, TABLE_PAGES, 0);
          await task.tell(0, "move", 3 * TABLE_PAGES, TABLE_PAGES, 2 * TABLE_PAGES, 0);
        },
      ));

    void it("sees a mapping that grows", () =>
      afterEach(
        (task) => task.tell(0, "grow", 1000, 24, 100).then(() => task.tell(0, "fill", 1010, 100, 5)),
        (task) => task.tell(0, "write", 1120, 6),
      ));

    void it("sees what was not accessible for a while", () =>
      afterEach(
        (task) => task.tell(0, "write", 2, 1).then(() => task.tell(0, "protect", 0, 10, 0)),
        (task) => task.tell(0, "protect", 0, 10, 1).then(() => task.tell(0, "write", 3, 1)),
        (task) => task.tell(0, "write", 4, 1).then(() => task.tell(0, "hide", 0, 10)),
        (task) => task.tell(0, "protect", 0, 10, 1),
        (task) => task.tell(0, "write", 5, 1),
      ));

    void it("sees writes to locked memory", () => afterEach((task) => task.tell(0, "lock", 0, 10).then(() => task.tell(0, "write", 3, 1))));

    void it("sees memory that may be taken away, and what was", () =>
      afterEach(
        (task) => task.tell(0, "advise", 0, 20, MADV_FREE),
        (task) => task.tell(0, "advise", 0, 20, ADVICE.pageOut),
        (task) => task.tell(0, "write", 3, 1),
      ));

    void it("sees writes to transparent huge pages", () =>
      afterEach(
        async (task) => {
          await task.tell(0, "map", 0, TABLE_PAGES);
          await task.tell(0, "advise", 0, TABLE_PAGES, ADVICE.hugePages);
          await task.tell(0, "fill", 0, TABLE_PAGES, 3000);
          assert.ok(hugePagesKilobytes(task.pid) > 0, "the kernel gives none");
        },
        (task) => task.tell(0, "write", 300, 1),
        (task) => task.tell(0, "advise", TABLE_PAGES, TABLE_PAGES, ADVICE.collapse),
        (task) => task.tell(0, "write", TABLE_PAGES + 5, 1),
        (task) => task.tell(0, "move", 0, TABLE_PAGES, 3 * TABLE_PAGES, 0),
        (task) => task.tell(0, "move", TABLE_PAGES, TABLE_PAGES, 0, 1).then(() => task.tell(0, "fill", TABLE_PAGES, 10, 1)),
      ));

    void it("sees writes to huge pages of hugetlbfs", async (test: TestContext) => {
      let isThere = false;
      const write = async (task: ArenaProcess, page: number): Promise<void> => {
        if (isThere) await task.tell(0, "write", 2 * TABLE_PAGES + page, page);
      };
      await afterEach(
        async (task) => {
          isThere = (await task.tell(0, "huge", 2 * TABLE_PAGES, TABLE_PAGES)) === "1";
          await write(task, 1);
        },
        (task) => write(task, 2),
        (task) => write(task, 300),
      );
      if (!isThere) test.skip("the kernel here has none");
    });

    void it("sees writes to pages that are swapped out", (test: TestContext) =>
      afterEach(
        async (task) => {
          await task.tell(0, "write", 3, 1);
          await task.tell(0, "advise", 0, 100, ADVICE.pageOut);
          if (swappedPages(task.pid) === 0) test.diagnostic("no swap here: nothing was swapped out");
        },
        (task) => task.tell(0, "write", 4, 1),
        (task) => task.read(0, 0, 100),
        (task) => task.tell(0, "write", 5, 1),
      ));

    void it("sees what parent and child write after a fork", async () => {
      await using task = await started();
      await task.tell(0, "fill", 0, 20, 1000);
      using copy = new Copy(task.pid, await begin(task.pid));
      await copy.round();
      await task.tell(0, "write", 1, 1);
      await task.tell(0, "fork", 4);
      await task.answer(1);
      await task.tell(1, "write", 2, 2);
      await task.tell(0, "write", 3, 3);
      const [, child = 0] = pidsOf(task);
      using childsCopy = new Copy(child, await begin(child));
      for (const each of [copy, childsCopy]) await each.round();
      await task.tell(1, "write", 4, 4);
      await task.tell(0, "write", 5, 5);
      for (const each of [copy, childsCopy]) {
        await each.assertComplete();
        await each.round();
        assert.ok((await each.assertComplete()) > 20);
      }
      assert.deepEqual(await task.read(1, 1, 5), [1, 2, 1003, 4, 1005]);
    });

    void it("goes on with the program that the process runs next", async () => {
      await using task = await started();
      using copy = new Copy(task.pid, await begin(task.pid));
      await copy.round();
      await task.execute();
      await task.tell(0, "write", 3, 7);
      assert.ok((await copy.round()) > 100);
      await task.tell(0, "write", 4, 8);
      await copy.assertComplete();
      await copy.round();
      assert.ok((await copy.round()) < FEW_PAGES);
      assert.ok((await copy.assertComplete()) > 100);
    });

    void it("of a process that has ended says so", async () => {
      await using task = await started();
      using tracker = await begin(task.pid);
      tracker.written();
      await task[Symbol.asyncDispose]();
      await tracker.follow();
      assert.throws(() => tracker.written());
      assert.throws(() => tracker.writtenByNow());
    });

    void it("misses nothing that threads write all the time", async () => {
      const busy = spawn("sh", ["-c", '"$0" "$1" & echo $!; wait', process.execPath, BUSY_FIXTURE], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      let text = "";
      for await (const chunk of busy.stdout) if ((text += String(chunk)).includes("threads\n")) break;
      const pid = Number.parseInt(text, 10);
      try {
        using copy = new Copy(pid, await begin(pid));
        for (let round = 0; round < BUSY_ROUNDS; round++) {
          await copy.round();
          assert.ok((await copy.assertComplete()) > 0);
          await sleep(5);
        }
      } finally {
        process.kill(pid, "SIGKILL");
        await once(busy, "exit");
      }
    });

    void it("leaves the process as it was, also when who tracks it is killed", async () => {
      await using task = await started();
      await task.tell(0, "fill", 0, 100, 1000);
      await isAsleep(task.pid);
      const before = stateOf(task.pid);
      {
        using tracker = await begin(task.pid);
        tracker.written();
        assert.deepEqual({ ...stateOf(task.pid), flags: [] }, { ...before, flags: [] });
      }
      assert.deepEqual(stateOf(task.pid), before);

      const tracking = spawn(process.execPath, [TRACKING_FIXTURE, name, String(task.pid)], { stdio: ["ignore", "pipe", "inherit"] });
      let isTracking = false;
      for await (const chunk of tracking.stdout) if ((isTracking = String(chunk).includes("tracking"))) break;
      assert.ok(isTracking);
      tracking.kill("SIGKILL");
      await once(tracking, "exit");
      assert.deepEqual(stateOf(task.pid), before);
      await task.tell(0, "write", 3, 7);
      assert.deepEqual(await task.read(0, 2, 2), [1002, 7]);
    });

    void it("whatever processes do to their memory, no page is missed", async () => {
      await fc.assert(
        fc.asyncProperty(
          allCommands(ARENA_PAGES, { maxLength: 60, size: "max" }),
          fc.integer({ min: 1, max: 9 }),
          async (commands, every) => {
            await using task = await started();
            await task.tell(0, "fill", 0, USED_PAGES, 100);
            using open = new DisposableStack();
            const copies = new Map<number, Copy>();
            const rounds = async (): Promise<void> => {
              for (const pid of pidsOf(task)) {
                const copy = copies.get(pid) ?? open.use(new Copy(pid, await begin(pid)));
                copies.set(pid, copy);
                await copy.round();
              }
            };
            const models: Model[] = [Array.from({ length: ARENA_PAGES }, (_, page) => (page < USED_PAGES ? 100 + page : undefined))];
            for (const [at, [slot, command]] of commands.entries()) {
              await obey(task, models, slot % models.length, command);
              if (at % every === 0) await rounds();
            }
            for (const copy of copies.values()) await copy.assertComplete();
            await rounds();
            for (const copy of copies.values()) await copy.assertComplete();
          },
        ),
        { numRuns: Number(process.env["TRACKING_TEST_RUNS"] ?? 8) },
      );
    });
  });
}
