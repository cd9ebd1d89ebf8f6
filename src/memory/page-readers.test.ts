/** Readers of real processes' memory: what they give is what is there, each page once. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import * as fc from "fast-check";
import { readMemory } from "../kernel/process-memory.ts";
import { ArenaProcess } from "./arena-process.fixture.ts";
import { PageReaders, type LostTask, type ReadChunk, type ReadRun, type ReadTask } from "./page-readers.ts";
import { PAGE_BYTES } from "./page-protocol.ts";

const ARENA_PAGES = 512;
const WRITTEN_PAGES = 100;
const PLAN = { workers: 2, chunkPages: 16 };

/** The first 100 pages have content, the next 156 are zeros, the rest is not accessible. */
async function arena(): Promise<ArenaProcess> {
  const task = new ArenaProcess(ARENA_PAGES, 256);
  await task.started();
  await task.tell(0, "fill", 0, WRITTEN_PAGES, 1);
  return task;
}

function taskOf({ pid, arenaPage }: ArenaProcess, ...ranges: readonly (readonly [number, number])[]): ReadTask {
  return { pid, process: pid, ranges: ranges.map(([page, pageCount]) => ({ page: arenaPage + page, pageCount })) };
}

/** What a page of a task is, as the plain call sees it. */
function plainly(pid: number, page: number): { readonly kind: ReadRun["kind"]; readonly bytes: Buffer } {
  const bytes = Buffer.alloc(PAGE_BYTES);
  const isReadable = readMemory(pid, page * PAGE_BYTES, bytes) === PAGE_BYTES;
  return { kind: isReadable ? "content" : "unreadable", bytes };
}

/** Asserts that runs are what is there; returns their pages. */
function assertRight({ task: { pid }, runs }: ReadChunk): number[] {
  return runs.flatMap((run) =>
    Array.from({ length: run.pageCount }, (_, at) => {
      const { kind, bytes } = plainly(pid, run.page + at);
      assert.equal(run.kind, kind, `page ${run.page + at}`);
      if (run.kind === "content") assert.ok(bytes.equals(run.bytes.subarray(at * PAGE_BYTES, (at + 1) * PAGE_BYTES)));
      return run.page + at;
    }),
  );
}

/** Reads all; returns the pages that came, in their order, by process. */
async function readAll(readers: PageReaders, tasks: readonly ReadTask[]): Promise<Map<number, number[]>> {
  const pages = new Map<number, number[]>();
  for await (const read of readers.read(tasks)) {
    assert.equal(read.kind, "pages");
    using chunk = read;
    pages.set(chunk.task.pid, [...(pages.get(chunk.task.pid) ?? []), ...assertRight(chunk)]);
  }
  return pages;
}

const pagesOf = ({ ranges }: ReadTask): number[] =>
  ranges.flatMap(({ page, pageCount }) => Array.from({ length: pageCount }, (_, at) => page + at));

const ascending = (numbers: readonly number[] | undefined): number[] => (numbers ?? []).toSorted((a, b) => a - b);

async function next(reading: AsyncGenerator<ReadChunk | LostTask, void>): Promise<ReadChunk> {
  const { value } = await reading.next();
  assert.equal(value?.kind, "pages");
  return value;
}

void describe("page readers", { timeout: 60_000 }, () => {
  void it("tell what can be read from what can't, also in the middle of a chunk", async () => {
    await using task = await arena();
    await task.tell(0, "hide", 50, 1);
    const [chunk] = await Array.fromAsync(
      new PageReaders(() => ({ workers: 1, chunkPages: 256 })).read([taskOf(task, [48, 60], [255, 3])]),
    );
    assert.equal(chunk?.kind, "pages");
    assert.deepEqual(
      chunk.runs.map(({ kind, page, pageCount }) => [kind, page - task.arenaPage, pageCount]),
      [
        ["content", 48, 2],
        ["unreadable", 50, 1],
        ["content", 51, 57],
        ["content", 255, 1],
        ["unreadable", 256, 2],
      ],
    );
    assertRight(chunk);
  });

  void it("take what a file no longer has for what can't be read, and what is not to be dumped or inherited as it is", async () => {
    await using task = await arena();
    const [DONT_FORK, DONT_DUMP] = [10, 16];
    await task.tell(0, "cut", 20, 3);
    await task.tell(0, "advise", 10, 2, DONT_FORK);
    await task.tell(0, "advise", 12, 2, DONT_DUMP);
    const [chunk] = await Array.fromAsync(new PageReaders(() => ({ workers: 1, chunkPages: 256 })).read([taskOf(task, [0, 40])]));
    assert.equal(chunk?.kind, "pages");
    assert.deepEqual(
      chunk.runs.map(({ kind, page, pageCount }) => [kind, page - task.arenaPage, pageCount]),
      [
        ["content", 0, 20],
        ["unreadable", 20, 3],
        ["content", 23, 17],
      ],
    );
    assertRight(chunk);
  });

  void it("bring each page once, whatever is asked for and by however many", async () => {
    await using one = await arena();
    await using other = await arena();
    await one.tell(0, "hide", 20, 30);
    const range = fc.tuple(fc.nat(ARENA_PAGES - 1), fc.integer({ min: 1, max: 60 }));
    const ranges = fc.array(range, { minLength: 1, maxLength: 30 }).map((all) => {
      let from = 0; // ascending ones, which do not overlap
      return all.flatMap(([gap, pageCount]): [number, number][] => {
        const page = from + (gap % 9);
        from = page + pageCount;
        return from <= ARENA_PAGES ? [[page, pageCount]] : [];
      });
    });
    const plan = fc.record({ workers: fc.integer({ min: 1, max: 4 }), chunkPages: fc.constantFrom(16, 32, 64) });
    await fc.assert(
      fc.asyncProperty(ranges, ranges, fc.array(plan, { minLength: 1, maxLength: 20 }), async (first, second, plans) => {
        let asked = 0;
        const readers = new PageReaders(() => plans[asked++ % plans.length] ?? PLAN); // it changes its mind each time
        const tasks = [taskOf(one, ...first), taskOf(other, ...second)];
        const pages = await readAll(readers, tasks);
        for (const task of tasks) assert.deepEqual(ascending(pages.get(task.pid)), pagesOf(task));
      }),
      { numRuns: 40 },
    );
  });

  void it("begin with the longest, and read tasks that have as much left in turn", async () => {
    await using long = await arena();
    await using short = await arena();
    const order: number[] = [];
    const readers = new PageReaders(() => ({ workers: 1, chunkPages: 16 }));
    for await (const read of readers.read([taskOf(short, [0, 32]), taskOf(long, [0, 64])])) {
      assert.equal(read.kind, "pages");
      using chunk = read;
      order.push(chunk.task.pid);
    }
    assert.deepEqual(order.slice(0, 2), [long.pid, long.pid]);
    assert.deepEqual(ascending(order.slice(2, 4)), ascending([long.pid, short.pid]));
    assert.deepEqual(ascending(order.slice(4)), ascending([long.pid, short.pid]));
  });

  for (const [tasks, taskCount] of [
    ["one large task", 1],
    ["several tasks", 4],
  ] as const) {
    void it(`all begin at once, on ${tasks}`, async () => {
      await using arenas = new AsyncDisposableStack();
      const all: ReadTask[] = [];
      for (let at = 0; at < taskCount; at++) all.push(taskOf(arenas.use(await arena()), [0, 256 / taskCount]));
      let asked = 0; // once for each reader that begins, and once more
      const reading = new PageReaders(() => ({ workers: asked++ < 4 ? 4 : 0, chunkPages: 16 })).read(all);
      const first = next(reading);
      assert.equal(asked, 5, "they wait for each other");
      const chunks = [await first, await next(reading), await next(reading), await next(reading)];
      assert.equal(new Set(chunks.map(({ task }) => task)).size, taskCount);
      assert.equal(new Set(chunks.flatMap((chunk) => assertRight(chunk).map((page) => `${chunk.task.pid} ${page}`))).size, 64);
      const left = reading.return();
      for (const chunk of chunks) chunk[Symbol.dispose]();
      await left;
    });
  }

  void it("wait for whoever keeps what it was given, with two buffers a reader", async () => {
    await using task = await arena();
    const reading = new PageReaders(() => PLAN).read([taskOf(task, [0, 256])]);
    const kept: ReadChunk[] = [];
    for (let count = 0; count < PLAN.workers * 2; count++) kept.push(await next(reading));
    const buffers = new Set(kept.flatMap(({ runs }) => runs.flatMap((run) => (run.kind === "content" ? [run.bytes.buffer] : []))));
    let isThere = false;
    const fifth = next(reading).finally(() => (isThere = true));
    for (let count = 0; count < 100; count++) await turn();
    assert.equal(isThere, false);
    kept[1]?.[Symbol.dispose]();
    using chunk = await fifth;
    const [run] = chunk.runs;
    assert.ok(run?.kind === "content" && buffers.has(run.bytes.buffer), "no buffer was used again");
    await reading.return();
  });

  void it("lose a task that has ended, once, and read the others", async () => {
    await using task = await arena();
    await using ended = await arena();
    const lost = taskOf(ended, [0, 256]);
    await ended[Symbol.asyncDispose]();
    const readers = new PageReaders(() => ({ workers: 4, chunkPages: 16 }));
    const all = [];
    for await (const read of readers.read([lost, taskOf(task, [0, 100])])) {
      if (read.kind === "pages") read[Symbol.dispose]();
      all.push(read);
    }
    assert.deepEqual(
      all.flatMap((each) => (each.kind === "lost" ? [each.task] : [])),
      [lost],
    );
    assert.equal(all.length, 1 + Math.ceil(100 / 16));
  });

  void it("read nothing of a task of which there is nothing to read", async () => {
    await using task = await arena();
    const readers = new PageReaders(() => PLAN);
    assert.deepEqual(await readAll(readers, [taskOf(task)]), new Map());
    assert.deepEqual(
      ascending((await readAll(readers, [taskOf(task), taskOf(task, [3, 2])])).get(task.pid)),
      [3, 4].map((page) => task.arenaPage + page),
    );
  });

  void it("can be left in the middle, and read again", async () => {
    await using task = await arena();
    const readers = new PageReaders(() => PLAN);
    for await (const read of readers.read([taskOf(task, [0, 256])])) {
      if (read.kind === "pages") read[Symbol.dispose]();
      break;
    }
    const again = taskOf(task, [0, 256]);
    assert.deepEqual(ascending((await readAll(readers, [again])).get(task.pid)), pagesOf(again));
    assert.ok((readers.readerRate ?? 0) > 0);
  });
});
