/** The same of each tracker: a page that a process writes is never missed. Needs root, and Linux 6.7 for write protection. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { describe, it } from "node:test";
import { setImmediate } from "node:timers/promises";
import * as fc from "fast-check";
import { parseMaps } from "../../kernel/maps.ts";
import { Pagemap, type AddressRange } from "../../kernel/pagemap.ts";
import { readMemory } from "../../kernel/process-memory.ts";
import { arenaCommands, obey, type Model } from "../arena-commands.fixture.ts";
import { ArenaProcess } from "../arena-process.fixture.ts";
import { PAGE_BYTES } from "../page-protocol.ts";
import { ComparisonTracker } from "./comparison-tracker.ts";
import { isTracked, type DirtyTracker } from "./tracker.ts";
import { WriteProtectionTracker } from "./write-protection-tracker.ts";

const ARENA_PAGES = 512;
const USED_PAGES = 256;

const TRACKERS: Readonly<Record<string, (pid: number) => Promise<DirtyTracker>>> = {
  "write protection": (pid) => WriteProtectionTracker.begin(pid),
  comparison: async (pid) => new ComparisonTracker(pid),
};

/** A copy of a process's memory, made while it runs: as a migration makes it. */
class Copy implements Disposable {
  readonly pid: number;
  readonly #tracker: DirtyTracker;
  readonly #pages = new Map<number, Buffer>();

  constructor(pid: number, tracker: DirtyTracker) {
    this.pid = pid;
    this.#tracker = tracker;
  }

  /** Copies what was written since the last time; returns how many pages. */
  async round(): Promise<number> {
    let pageCount = 0;
    await this.#tracker.follow();
    for (const { start, end } of await this.#tracker.written()) {
      for (let at = start; at < end; at += PAGE_BYTES) {
        const bytes = Buffer.alloc(PAGE_BYTES);
        readMemory(this.pid, at, bytes);
        this.#pages.set(at, bytes);
        pageCount += 1;
      }
    }
    return pageCount;
  }

  /** Asserts that every page of the process, which does nothing just now, is as it was copied. */
  assertComplete(within: AddressRange): void {
    using pagemap = new Pagemap(this.pid);
    for (const mapping of mappingsOf(this.pid)) {
      if (mapping.start >= within.end || mapping.end <= within.start) continue;
      for (const { start, end } of pagemap.present(mapping)) {
        for (let at = start; at < end; at += PAGE_BYTES) {
          const bytes = Buffer.alloc(PAGE_BYTES);
          if (readMemory(this.pid, at, bytes) < PAGE_BYTES) continue; // not accessible
          assert.ok(this.#pages.get(at)?.equals(bytes), `page ${(at - within.start) / PAGE_BYTES} was missed`);
        }
      }
    }
  }

  [Symbol.dispose](): void {
    this.#tracker[Symbol.dispose]();
  }
}

function mappingsOf(pid: number) {
  return parseMaps(readFileSync(`/proc/${pid}/maps`, "utf8")).filter(isTracked);
}

function arenaOf(task: ArenaProcess): AddressRange {
  return { start: task.arenaPage * PAGE_BYTES, end: (task.arenaPage + task.arenaPages) * PAGE_BYTES };
}

async function started(): Promise<ArenaProcess> {
  const task = new ArenaProcess(ARENA_PAGES, USED_PAGES);
  await task.started();
  return task;
}

/** The processes of the arena: the first one and its forked children. */
function pidsOf(task: ArenaProcess): number[] {
  const { pid } = task;
  return [pid, ...readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean).map(Number)];
}

for (const [name, begin] of Object.entries(TRACKERS)) {
  void describe(`tracking by ${name}`, { timeout: 120_000 }, () => {
    void it("tells all pages at first, then those that were written", async () => {
      await using task = await started();
      const { pid } = task;
      for (let page = 0; page < 10; page++) await task.tell(0, "write", page, 1000 + page);
      using copy = new Copy(pid, await begin(pid));
      assert.ok((await copy.round()) >= 10);
      await task.tell(0, "write", 3, 7);
      const later = await copy.round();
      assert.ok(later >= 1 && later < 200, `${later} pages`); // Perl writes some of its own
      copy.assertComplete(arenaOf(task));
    });

    void it("tells a mapping that took the place of another between two calls", async () => {
      await using task = await started();
      const { pid } = task;
      await task.tell(0, "write", 5, 1000);
      using copy = new Copy(pid, await begin(pid));
      await copy.round();
      await task.tell(0, "map", 0, 20);
      await task.tell(0, "write", 5, 2000);
      await copy.round();
      copy.assertComplete(arenaOf(task));
      await task.tell(0, "move", 0, 20, 100, 0);
      await copy.round();
      copy.assertComplete(arenaOf(task));
    });

    void it("goes on with the program that the process runs next", async () => {
      await using task = await started();
      using copy = new Copy(task.pid, await begin(task.pid));
      await copy.round();
      await task.execute();
      await task.tell(0, "write", 3, 7);
      assert.ok((await copy.round()) > 100);
      await task.tell(0, "write", 4, 8);
      while ((await copy.round()) > 200); // one that does not stop at once is followed the next time
      copy.assertComplete({ start: 0, end: 2 ** 47 });
    });

    void it("of a process that has ended says so", async () => {
      await using task = await started();
      using copy = new Copy(task.pid, await begin(task.pid));
      await copy.round();
      await task[Symbol.asyncDispose]();
      await assert.rejects(copy.round());
    });

    void it("whatever processes do to their memory, no page is missed", async () => {
      await fc.assert(
        fc.asyncProperty(arenaCommands(ARENA_PAGES, { maxLength: 60 }), fc.integer({ min: 1, max: 9 }), async (commands, every) => {
          await using task = await started();
          using open = new DisposableStack();
          const copies = new Map<number, Copy>();
          const rounds = async (): Promise<void> => {
            for (const pid of pidsOf(task)) {
              const copy = copies.get(pid) ?? open.use(new Copy(pid, await begin(pid)));
              copies.set(pid, copy);
              await copy.round();
            }
          };
          const models: Model[] = [Array.from({ length: ARENA_PAGES }, (_, page) => (page < USED_PAGES ? 0 : undefined))];
          for (const [at, [slot, command]] of commands.entries()) {
            await obey(task, models, slot % models.length, command);
            if (at % every === 0) await rounds();
          }
          await rounds();
          for (const copy of copies.values()) copy.assertComplete(arenaOf(task));
        }),
        { numRuns: Number(process.env["TRACKING_TEST_RUNS"] ?? 8) },
      );
    });
  });
}

void it("write protection leaves nothing behind in the process, and its thread where it was", { timeout: 60_000 }, async () => {
  await using task = await started();
  const descriptors = (): string[] => readdirSync(`/proc/${task.pid}/fd`).map((fd) => readlinkSync(`/proc/${task.pid}/fd/${fd}`));
  const textOf = (file: string): string => readFileSync(`/proc/${task.pid}/${file}`, "utf8");
  const isAsleep = async (): Promise<void> => {
    while (!textOf("status").includes("State:\tS")) await setImmediate();
  };
  await isAsleep();
  const [fds, call] = [descriptors(), textOf("syscall")];
  {
    using tracker = await WriteProtectionTracker.begin(task.pid);
    await tracker.written();
    assert.deepEqual(descriptors(), fds);
    assert.match(textOf("smaps"), /^VmFlags:.* uw/m);
  }
  assert.doesNotMatch(textOf("smaps"), /^VmFlags:.* uw/m);
  await isAsleep();
  assert.equal(textOf("syscall"), call);
  await task.tell(0, "write", 3, 7);
  assert.deepEqual(await task.read(0, 3, 1), [7]);
});
