/**
 * What processes of tests may do to their memory, at random, and what must be in it afterwards.
 */
import assert from "node:assert/strict";
import * as fc from "fast-check";
import { SLOTS, type ArenaProcess } from "./arena-process.fixture.ts";

/** Pages that one table of the kernel's has: 2 MB. */
export const TABLE_PAGES = 512;
/** MADV_* (madvise(2)). */
export const ADVICE = { hugePages: 14, noHugePages: 15, cold: 20, pageOut: 21, collapse: 25 } as const;

/** Commands with places anywhere. */
const commandIn = (arenaPages: number) => {
  const where = { page: fc.nat(arenaPages - 1), pageCount: fc.integer({ min: 1, max: 40 }) };
  return fc.oneof(
    fc.record({ do: fc.constant("read" as const), ...where }),
    fc.record({ do: fc.constant("write" as const), page: where.page, value: fc.integer({ min: 10_000, max: 20_000 }) }),
    fc.record({ do: fc.constant("unmap" as const), ...where }),
    fc.record({ do: fc.constant("map" as const), ...where }),
    fc.record({ do: fc.constant("empty" as const), ...where }),
    fc.record({ do: fc.constant("split" as const), page: where.page }),
    fc.record({ do: fc.constant("move" as const), ...where, to: where.page, keepsOld: fc.boolean() }),
    fc.record({ do: fc.constant("fork" as const) }),
  );
};

/** Commands that change nothing of what is in memory but how it is there, and moves of whole page tables. */
const rearrangementIn = (arenaPages: number) => {
  const where = { page: fc.nat(arenaPages - 1), pageCount: fc.integer({ min: 1, max: 600 }) };
  const table = fc.nat(arenaPages / TABLE_PAGES - 1).map((at) => at * TABLE_PAGES);
  return fc.oneof(
    fc.record({ do: fc.constant("protect" as const), ...where }),
    fc.record({ do: fc.constant("advise" as const), ...where, advice: fc.constantFrom(...Object.values(ADVICE)) }),
    fc.record({
      do: fc.constant("move" as const),
      page: table,
      pageCount: fc.constant(TABLE_PAGES),
      to: table,
      keepsOld: fc.boolean(),
    }),
  );
};
type Generated<T> = T extends fc.Arbitrary<infer Value> ? Value : never;
type RandomCommand = Generated<ReturnType<typeof commandIn>> | Generated<ReturnType<typeof rearrangementIn>>;

/** Sequences of commands, each with a number that says for which of the processes it is. */
export function arenaCommands(arenaPages: number, constraints: fc.ArrayConstraints): fc.Arbitrary<[number, RandomCommand][]> {
  return fc.array(fc.tuple(fc.nat(), commandIn(arenaPages)), constraints);
}

/** The same with whatever else may be done to memory that is not lazy. */
export function allCommands(arenaPages: number, constraints: fc.ArrayConstraints): fc.Arbitrary<[number, RandomCommand][]> {
  return fc.array(fc.tuple(fc.nat(), fc.oneof({ weight: 2, arbitrary: commandIn(arenaPages) }, rearrangementIn(arenaPages))), constraints);
}

/** What each page of a process should be: undefined if it is not accessible. */
export type Model = (number | undefined)[];

/** Does to the process and to its model what the command says, as far as it can be done there. */
export async function obey(task: ArenaProcess, models: Model[], slot: number, random: RandomCommand): Promise<void> {
  const model = models[slot];
  assert.ok(model !== undefined);
  if (random.do === "fork") {
    if (models.length === SLOTS) return;
    models.push([...model]);
    await task.tell(slot, "fork", 2 + models.length);
    await task.answer(models.length - 1); // the child's
    return;
  }
  const { page } = random;
  if (random.do === "write" || random.do === "split") {
    if (model[page] === undefined) return;
    await task.tell(slot, random.do, page, ...(random.do === "write" ? [random.value] : []));
    if (random.do === "write") model[page] = random.value;
    return;
  }
  const to = random.do === "move" ? random.to : page;
  let pageCount = Math.min(random.pageCount, task.arenaPages - page, task.arenaPages - to);
  const isAll = (from: number, holds: (value: number | undefined) => boolean): boolean => model.slice(from, from + pageCount).every(holds);
  switch (random.do) {
    case "read":
      while (pageCount > 0 && !isAll(page, (value) => value !== undefined)) pageCount--;
      assert.deepEqual(await task.read(slot, page, pageCount), model.slice(page, page + pageCount));
      return;
    case "protect":
      while (pageCount > 0 && !isAll(page, (value) => value !== undefined)) pageCount--;
      if (pageCount === 0) return;
      for (const isWritable of [0, 1]) await task.tell(slot, "protect", page, pageCount, isWritable);
      return;
    case "advise":
      await task.tell(slot, "advise", page, pageCount, random.advice);
      return;
    case "unmap":
    case "map":
      await task.tell(slot, random.do, page, pageCount);
      model.fill(random.do === "map" ? 0 : undefined, page, page + pageCount);
      return;
    case "empty":
      await task.tell(slot, random.do, page, pageCount);
      for (let at = page; at < page + pageCount; at++) if (model[at] !== undefined) model[at] = 0;
      return;
    case "move": {
      const overlaps = Math.abs(page - to) < pageCount;
      if (overlaps || !isAll(page, (value) => value !== undefined)) return;
      const hasMoved = (await task.tell(slot, "move", page, pageCount, to, random.keepsOld ? 1 : 0)) === "1";
      const values = model.slice(page, page + pageCount);
      model.splice(to, pageCount, ...(hasMoved ? values : values.map(() => 0)));
      model.fill(hasMoved && !random.keepsOld ? undefined : 0, page, page + pageCount);
    }
  }
}

export async function assertAllRight(task: ArenaProcess, models: readonly Model[]): Promise<void> {
  for (const [slot, model] of models.entries()) {
    for (let page = 0; page < task.arenaPages; page++) {
      let pageCount = 0;
      while (model[page + pageCount] !== undefined) pageCount++;
      if (pageCount === 0) continue;
      assert.deepEqual(await task.read(slot, page, pageCount), model.slice(page, page + pageCount));
      page += pageCount;
    }
  }
}
