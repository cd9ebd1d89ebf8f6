/** Spaces of lazy memory against a model that knows of each page of a process what is missing there. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { LazyMemory, type LazySpace } from "./lazy-memory.ts";

const RANGES = [
  { page: 10, pageCount: 20 },
  { page: 40, pageCount: 5 },
  { page: 45, pageCount: 15 },
];
const LAZY_PAGES = 40;
const END = 100;

const where = { page: fc.nat(END - 1), pageCount: fc.integer({ min: 1, max: 30 }) };
const event = fc.oneof(
  fc.record({ kind: fc.constant("remove" as const), ...where }),
  fc.record({ kind: fc.constant("move" as const), ...where, to: fc.nat(END - 1) }),
  fc.record({ kind: fc.constant("settle" as const), index: fc.nat(LAZY_PAGES - 1), pageCount: where.pageCount }),
  fc.record({ kind: fc.constant("fork" as const) }),
);

/** Of each page of a process the index of the one that is missing there. */
type Model = Map<number, number>;

function happen(happens: typeof event extends fc.Arbitrary<infer T> ? T : never, space: LazySpace, model: Model): void {
  switch (happens.kind) {
    case "remove":
      space.remove(happens.page, happens.pageCount);
      for (let at = 0; at < happens.pageCount; at++) model.delete(happens.page + at);
      return;
    case "move": {
      const { page, to } = happens;
      const pageCount = Math.min(happens.pageCount, Math.abs(to - page));
      if (pageCount === 0) return;
      space.move(page, to, pageCount);
      for (let at = 0; at < pageCount; at++) {
        const index = model.get(page + at);
        model.delete(page + at);
        if (index === undefined) model.delete(to + at);
        else model.set(to + at, index);
      }
      return;
    }
    case "settle": {
      const pageCount = Math.min(happens.pageCount, LAZY_PAGES - happens.index);
      for (const run of space.runs(happens.index, pageCount))
        for (let at = 0; at < run.pageCount; at++) {
          assert.equal(model.get(run.page + at), run.index + at);
          model.delete(run.page + at);
        }
      space.settle(happens.index, pageCount);
      assert.ok(
        [...model.values()].every((index) => index < happens.index || index >= happens.index + pageCount),
        "a run was left out",
      );
      return;
    }
    case "fork":
  }
}

test("whatever happens to a process and its children, each place lacks what the model says", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(), event), { maxLength: 40 }), (events) => {
      const memory = new LazyMemory(1, RANGES);
      const pages = RANGES.flatMap(({ page, pageCount }) => Array.from({ length: pageCount }, (_, at) => page + at));
      const all: { space: LazySpace; model: Model }[] = [{ space: memory.addSpace(), model: new Map(pages.map((page, at) => [page, at])) }];
      for (const [which, happens] of events) {
        const one = all[which % all.length];
        assert.ok(one !== undefined);
        happen(happens, one.space, one.model);
        if (happens.kind === "fork") all.push({ space: one.space.fork(), model: new Map(one.model) });
      }
      for (const { space, model } of all) {
        for (let page = 0; page < 2 * END; page++) assert.equal(space.indexAt(page), model.get(page), `page ${page}`);
        assert.equal(space.isWhole, model.size === 0);
      }
      memory.restored();
      for (let index = 0; index < LAZY_PAGES; index++)
        assert.equal(
          memory.isWanted(index),
          all.some(({ model }) => [...model.values()].includes(index)),
        );
    }),
    { numRuns: 500 },
  );
});

test("a process that has ended wants nothing", () => {
  const memory = new LazyMemory(1, RANGES);
  const space = memory.addSpace();
  memory.restored();
  assert.ok(memory.isWanted(0));
  space.end();
  assert.ok(!memory.isWanted(0));
});
