/** The plan of what to ask, against a source that answers in any order, in pieces. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { FetchPlan, type FetchLimits } from "./fetch-plan.ts";
import { LazyMemory } from "./lazy-memory.ts";
import type { PageRun } from "./page-protocol.ts";
import type { PageRange } from "./page-ranges.ts";
import { rangesOf } from "./ranges.fixture.ts";

const LIMITS: FetchLimits = { inFlight: { min: 4, max: 16 }, get: 4, touched: 2, around: 8, aroundMax: 32, hot: 3, small: 5 };

function planOf(...all: readonly (readonly PageRange[])[]): { memories: Map<number, LazyMemory>; plan: FetchPlan } {
  const memories = new Map(all.map((ranges, at) => [at + 1, new LazyMemory(at + 1, ranges)]));
  const plan = new FetchPlan(memories, LIMITS);
  plan.resumed();
  return { memories, plan };
}

/** All GETs that are sent until one has to be answered. */
function gets(plan: FetchPlan, roomPages = Infinity): PageRun[] {
  const runs: PageRun[] = [];
  for (let next = plan.next(roomPages, 0); next !== undefined; next = plan.next(roomPages, 0)) runs.push(next.run);
  return runs;
}

const ranges = fc.array(fc.tuple(fc.nat(20), fc.integer({ min: 1, max: 40 })), { minLength: 1, maxLength: 6 }).map(rangesOf);
const step = fc.record({
  touches: fc.array(fc.tuple(fc.nat(), fc.nat()), { maxLength: 2 }),
  which: fc.nat(),
  cut: fc.integer({ min: 1, max: 4 }),
});

test("every page comes once, whatever is touched, in whatever order and pieces they arrive", () => {
  fc.assert(
    fc.property(fc.array(ranges, { minLength: 1, maxLength: 3 }), fc.array(step, { maxLength: 60 }), (all, steps) => {
      const { memories, plan } = planOf(...all);
      const arrived = new Set<string>();
      const asked = gets(plan);
      for (let at = 0; asked.length > 0; at++) {
        const { touches, which, cut } = steps[at] ?? { touches: [], which: 0, cut: 4 };
        const [run] = asked.splice(which % asked.length, 1);
        assert.ok(run !== undefined);
        assert.ok(
          all[run.process - 1]?.some(({ page, pageCount }) => run.page >= page && run.page + run.pageCount <= page + pageCount),
          "a GET beyond a range",
        );
        const pageCount = Math.min(run.pageCount, cut);
        if (pageCount < run.pageCount) asked.push({ ...run, page: run.page + pageCount, pageCount: run.pageCount - pageCount });
        assert.equal(plan.arrived({ ...run, pageCount }, 0).pageCount, pageCount);
        for (let nth = 0; nth < pageCount; nth++) {
          const page = `${run.process} ${run.page + nth}`;
          assert.ok(!arrived.has(page), "a page came twice");
          arrived.add(page);
        }
        for (const [process, index] of touches) {
          const memory = memories.get((process % all.length) + 1);
          assert.ok(memory !== undefined);
          plan.touch(memory, index % memory.ranges.pageCount);
        }
        asked.push(...gets(plan));
      }
      assert.ok(plan.isIdle);
      assert.equal(
        arrived.size,
        [...memories.values()].reduce((sum, memory) => sum + memory.ranges.pageCount, 0),
      );
    }),
    { numRuns: 300 },
  );
});

test("small ranges come first; a touched page comes before all that is not on its way, and what lies around it next", () => {
  const { memories, plan } = planOf([
    { page: 100, pageCount: 40 },
    { page: 200, pageCount: 3 },
  ]);
  const asked = gets(plan);
  assert.deepEqual(
    asked,
    [200, 201, 202, 100].map((page) => ({ process: 1, page, pageCount: 1 })),
  );
  const memory = memories.get(1);
  assert.ok(memory !== undefined);
  plan.touch(memory, 30);
  assert.deepEqual(gets(plan), [{ process: 1, page: 130, pageCount: 2 }]);
  for (const run of asked) plan.arrived(run, 0);
  plan.arrived({ process: 1, page: 130, pageCount: 2 }, 0);
  assert.deepEqual(plan.next(Infinity, 0), { run: { process: 1, page: 124, pageCount: 1 }, isTouched: false });
  assert.equal(plan.demandedPages, 1);
});

test("who goes through its memory gets more and more of what lies ahead, and little again once it goes elsewhere", () => {
  const memory = new LazyMemory(1, [{ page: 1000, pageCount: 400 }]);
  const plan = new FetchPlan(new Map([[1, memory]]), LIMITS); // the rest does not come before the tasks run
  /** How many pages come because one is touched. */
  const touch = (index: number): number => {
    let pageCount = 0;
    plan.touch(memory, index);
    for (let runs = gets(plan); runs.length > 0; runs = gets(plan)) {
      for (const run of runs) plan.arrived(run, 0);
      pageCount += runs.reduce((sum, run) => sum + run.pageCount, 0);
    }
    return pageCount;
  };
  assert.deepEqual([touch(3), touch(8), touch(24), touch(56), touch(88)], [8, 16, 32, 32, 32]);
  assert.deepEqual([touch(300), touch(200), touch(208)], [8, 8, 16]);
});

test("before the tasks run only what they wrote last comes, and not more of it than may, and small ranges", () => {
  const all = [
    { page: 100, pageCount: 40 },
    { page: 200, pageCount: 3 },
  ];
  const memories = new Map([[1, new LazyMemory(1, all)]]);
  const hot = new Map([
    [
      1,
      [
        { page: 90, pageCount: 12 },
        { page: 138, pageCount: 100 },
      ],
    ],
    [2, [{ page: 0, pageCount: 1 }]],
  ]);
  const plan = new FetchPlan(memories, LIMITS, hot);
  const asked = gets(plan);
  assert.deepEqual(asked, [
    { process: 1, page: 100, pageCount: 2 },
    { process: 1, page: 138, pageCount: 1 },
    { process: 1, page: 200, pageCount: 3 },
  ]);
  plan.resumed();
  for (const run of asked) plan.arrived(run, 0);
  assert.deepEqual(plan.next(Infinity, 0)?.run, { process: 1, page: 102, pageCount: 1 });
});

test("a plan asks for no more than there is room for", () => {
  const { plan } = planOf([{ page: 100, pageCount: 400 }]);
  assert.deepEqual(gets(plan, 0), []);
});

test("pages that were not asked for are refused, and those that come twice", () => {
  const { plan } = planOf([{ page: 100, pageCount: 400 }]);
  const [run] = gets(plan);
  assert.ok(run !== undefined);
  for (const wrong of [{ page: run.page + 50 }, { page: run.page - 1 }, { process: 2 }, { pageCount: run.pageCount + 50 }])
    assert.throws(() => plan.arrived({ ...run, ...wrong }, 0), { code: "PROTOCOL" });
  plan.arrived({ ...run, pageCount: 1 }, 0);
  assert.throws(() => plan.arrived(run, 0), { code: "PROTOCOL" });
});

test("pages that were copied ahead are neither asked for nor taken from the source", () => {
  const { memories, plan } = planOf([{ page: 100, pageCount: 4 }]);
  memories.get(1)?.copiedAhead(0, 4);
  assert.deepEqual(gets(plan), []);
  assert.throws(() => plan.arrived({ process: 1, page: 100, pageCount: 4 }, 0), { code: "PROTOCOL" });
});
