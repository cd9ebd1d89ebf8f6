/** The plan against a client that asks like `criu lazy-pages` and a source that answers like CRIU's page server. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { PagePlan, type PageAnswer, type PlanLimits } from "./page-plan.ts";
import { rangesOf } from "./ranges.fixture.ts";
import { PAGE_BYTES, type PageRun } from "./page-protocol.ts";
import type { PageRange } from "./page-ranges.ts";

const LIMITS: PlanLimits = { stored: 64, inFlight: 8, get: 4, touched: 2, around: 8, answerMin: 2, answerMax: 12 };

type Processes = ReadonlyMap<number, readonly PageRange[]>;

/** What the page holds on the source: no two pages the same. */
function contentOf(process: number, page: number): Buffer {
  const bytes = Buffer.alloc(PAGE_BYTES);
  for (let at = 0; at < PAGE_BYTES; at += 16) {
    bytes.writeDoubleLE(page, at);
    bytes.writeDoubleLE(process, at + 8);
  }
  return bytes;
}

function contentOfRun({ process, page, pageCount }: PageRun): Buffer {
  return Buffer.concat(Array.from({ length: pageCount }, (_, at) => contentOf(process, page + at)));
}

function isLazy(processes: Processes, { process, page, pageCount }: PageRun): boolean {
  return (processes.get(process) ?? []).some((range) => page >= range.page && page + pageCount <= range.page + range.pageCount);
}

/** CRIU's page server: answers in order, sometimes with fewer pages than asked for; its bytes come cut anywhere. */
class Source {
  readonly asked: PageRun[] = [];
  #answered = 0;
  #chunk: Buffer = Buffer.alloc(0);
  readonly #plan: PagePlan;
  readonly #processes: Processes;
  readonly #limits: PlanLimits;

  constructor(plan: PagePlan, processes: Processes, limits: PlanLimits) {
    this.#plan = plan;
    this.#processes = processes;
    this.#limits = limits;
  }

  get waiting(): readonly PageRun[] {
    return this.asked.slice(this.#answered);
  }

  takeGets(): void {
    for (let run = this.#plan.nextGet(); run !== undefined; run = this.#plan.nextGet()) {
      assert.ok(isLazy(this.#processes, run), "a GET outside the lazy ranges");
      assert.ok(run.pageCount <= this.#limits.get);
      this.asked.push(run);
    }
    assert.ok(this.#plan.storedPages <= this.#limits.stored, `${this.#plan.storedPages} pages are stored`);
  }

  /** Sends up to so many bytes of an answer, which is cut by `fewer` pages if it begins now. False if nothing was asked. */
  send(bytes: number, fewer: number): boolean {
    if (this.#chunk.length === 0) {
      const get = this.asked[this.#answered];
      if (get === undefined) return false;
      this.#answered += 1;
      const run = { ...get, pageCount: Math.max(1, get.pageCount - fewer) };
      this.#plan.begin(run);
      this.#chunk = contentOfRun(run);
    }
    const sent = this.#chunk.subarray(0, Math.max(1, bytes));
    assert.equal(this.#plan.fill(sent, 0), sent.length);
    this.#chunk = this.#chunk.subarray(sent.length);
    return true;
  }
}

/** What the plan answers is checked against what was asked. */
class Client {
  readonly got: PageRun[] = [];
  readonly #asked: PageRun[] = [];
  readonly #plan: PagePlan;

  constructor(plan: PagePlan) {
    this.#plan = plan;
  }

  get isWaiting(): boolean {
    return this.#asked.length > 0;
  }

  ask(run: PageRun): void {
    this.#plan.ask(run);
    this.#asked.push(run);
  }

  takeAnswers(): void {
    for (let answer = this.#plan.nextAnswer(); answer !== undefined; answer = this.#plan.nextAnswer()) this.#check(answer);
  }

  #check({ run, bytes }: PageAnswer): void {
    const asked = this.#asked.shift();
    assert.ok(asked !== undefined, "an answer to no question");
    assert.deepEqual({ ...run, pageCount: asked.pageCount }, asked, "answers come in the order of the questions");
    assert.ok(run.pageCount >= 1 && run.pageCount <= asked.pageCount);
    assert.ok(Buffer.concat(bytes).equals(contentOfRun(run)), "wrong bytes");
    this.got.push(run);
  }
}

const processes: fc.Arbitrary<Processes> = fc
  .array(fc.array(fc.tuple(fc.nat(20), fc.integer({ min: 1, max: 40 })), { minLength: 1, maxLength: 8 }), { minLength: 1, maxLength: 3 })
  .map((all) => new Map(all.map((gaps, at) => [at + 1, rangesOf(gaps)])));

/** Something happens: the client asks (where and how much, as far as there is something), or the source sends. */
const event = fc.oneof(
  fc.record({
    kind: fc.constant("ask" as const),
    process: fc.nat(),
    range: fc.nat(),
    offset: fc.nat(),
    pageCount: fc.integer({ min: 1, max: 40 }),
  }),
  fc.record({ kind: fc.constant("touch" as const), process: fc.nat(), range: fc.nat(), offset: fc.nat() }),
  fc.record({
    kind: fc.constant("send" as const),
    bytes: fc.nat(3 * PAGE_BYTES),
    fewer: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.nat(3)),
  }),
);

function pick<T>(list: readonly T[], at: number): T {
  const picked = list[at % list.length];
  assert.ok(picked !== undefined);
  return picked;
}

/** Any run in any range, also one that was asked for before. */
function runOf(all: Processes, where: { process: number; range: number; offset: number; pageCount?: number }): PageRun {
  const [process, ranges] = pick([...all], where.process);
  const range = pick(ranges, where.range);
  const offset = where.offset % range.pageCount;
  return { process, page: range.page + offset, pageCount: Math.min(where.pageCount ?? 1, range.pageCount - offset) };
}

test("every question gets one answer, in order, with the right bytes, whatever is asked and however the source answers", () => {
  fc.assert(
    fc.property(processes, fc.array(event, { maxLength: 200 }), (all, events) => {
      const plan = new PagePlan(all, LIMITS);
      const source = new Source(plan, all, LIMITS);
      const client = new Client(plan);
      for (const happens of events) {
        if (happens.kind === "send") source.send(happens.bytes, happens.fewer);
        else client.ask(runOf(all, happens));
        client.takeAnswers();
        source.takeGets();
      }
      while (client.isWaiting) {
        assert.ok(source.send(PAGE_BYTES, 0), "the client waits, and the source is not asked");
        client.takeAnswers();
        source.takeGets();
      }
    }),
    { numRuns: 500 },
  );
});

test("a client that goes through the memory and touches pages in between gets each once, and the source is asked for each once", () => {
  const touches = fc.array(fc.tuple(fc.nat(), fc.nat(), fc.nat()), { maxLength: 30 });
  const limits = { ...LIMITS, stored: 512 };
  fc.assert(
    fc.property(processes, touches, fc.integer({ min: 2, max: 40 }), (all, touched, chunkPages) => {
      const plan = new PagePlan(all, limits);
      const source = new Source(plan, all, limits);
      const client = new Client(plan);
      const missing = new Map(
        [...all].map(([process, ranges]) => [
          process,
          new Set(ranges.flatMap(({ page, pageCount }) => Array.from({ length: pageCount }, (_, at) => page + at))),
        ]),
      );
      const total = [...missing.values()].reduce((sum, { size }) => sum + size, 0);
      const exchange = (run: PageRun): void => {
        client.ask(run);
        source.takeGets();
        for (client.takeAnswers(); client.isWaiting; client.takeAnswers()) {
          assert.ok(source.send(PAGE_BYTES, 0));
          source.takeGets();
        }
        const got = client.got.at(-1);
        assert.ok(got !== undefined);
        for (let at = 0; at < got.pageCount; at++) missing.get(run.process)?.delete(got.page + at);
      };
      for (;;) {
        const [process, range, offset] = touched.pop() ?? [0, 0, 0];
        const touch = runOf(all, { process, range, offset });
        if (missing.get(touch.process)?.has(touch.page)) exchange(touch);
        const next = [...missing].find(([, pages]) => pages.size > 0);
        if (next === undefined) break;
        const [first] = next[1];
        assert.ok(first !== undefined);
        let pageCount = 1;
        while (
          pageCount < chunkPages &&
          next[1].has(first + pageCount) &&
          isLazy(all, { process: next[0], page: first, pageCount: pageCount + 1 })
        )
          pageCount++;
        exchange({ process: next[0], page: first, pageCount });
      }
      assert.equal(
        client.got.reduce((sum, { pageCount }) => sum + pageCount, 0),
        total,
      );
      assert.equal(
        source.asked.reduce((sum, { pageCount }) => sum + pageCount, 0),
        total,
      );
      assert.equal(plan.counts.demanded + plan.counts.pushed, total);
      assert.equal(plan.counts.total, total);
      assert.equal(plan.storedPages, 0);
    }),
    { numRuns: 300 },
  );
});

test("questions for pages that are not lazy are refused, and answers that nobody asked for, are longer, or come twice", () => {
  const all: Processes = new Map([[1, [{ page: 16, pageCount: 8 }]]]);
  const page = (from: number, pageCount = 1, process = 1): PageRun => ({ process, page: from, pageCount });
  for (const run of [page(24), page(15), page(20, 5), page(16, 1, 2)])
    assert.throws(() => new PagePlan(all, LIMITS).ask(run), { code: "PROTOCOL" });
  const asked = (): PagePlan => {
    const plan = new PagePlan(all, LIMITS);
    plan.ask(page(16, 2));
    assert.deepEqual(plan.nextGet(), page(16, 2));
    return plan;
  };
  for (const run of [page(17), page(16, 3), page(16, 2, 2), page(30)]) assert.throws(() => asked().begin(run), { code: "PROTOCOL" });
  assert.throws(() => new PagePlan(all, LIMITS).begin(page(16)), { code: "PROTOCOL" });
  const plan = asked();
  plan.begin(page(16, 2));
  plan.fill(Buffer.alloc(2 * PAGE_BYTES), 0);
  assert.throws(() => plan.begin(page(16, 2)), { code: "PROTOCOL" });
});
