/** What a target asks a source for, and what a source answers to what can't be asked. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import * as fc from "fast-check";
import { harms } from "../../test/support/harm.ts";
import { DmigrateError } from "../core/errors.ts";
import { Trunk } from "../transfer/trunk.ts";
import type { TrunkStream } from "../transfer/stream.ts";
import { wire } from "../transfer/wires.fixture.ts";
import { ArenaProcess } from "../memory/arena-process.fixture.ts";
import { encodeMessage, PAGE_BYTES, type PageRun } from "../memory/page-protocol.ts";
import { sendPages } from "../memory/page-sender.ts";

const PROCESS = 5;
const USED_PAGES = 64;

/** Both ends of a stream that a source serves with the pages of a task; what it sends may be stuck. */
async function served(pid: number, isStuck = false): Promise<{ readonly source: TrunkStream; readonly target: TrunkStream }> {
  const opened = Promise.withResolvers<TrunkStream>();
  const there = new Trunk(() => assert.fail("the target opens none"));
  const here = new Trunk((stream) => {
    stream.accept();
    opened.resolve(stream);
  });
  const [near, far] = wire();
  there.join(near, "shared");
  here.join(far, "shared");
  const source = await there.open("pages/demanded", "demanded");
  sendPages(source, new Map([[PROCESS, pid]]));
  if (isStuck) near._write = () => {};
  return { source, target: await opened.promise };
}

/** The pages that come, by their numbers in the arena, until nothing does any more; or what the source ends the stream with. */
async function ask(pid: number, bytes: Uint8Array, arenaPage: number): Promise<unknown> {
  const { target: stream } = await served(pid);
  const pages: number[] = [];
  let failure: unknown;
  stream.on("error", (error) => (failure = error));
  stream.receivePages(({ process, page, pageCount }, content) => {
    assert.equal(process, PROCESS);
    for (let nth = 0; nth < pageCount; nth++) {
      const at = page - arenaPage + nth;
      pages.push(at);
      if (at >= 0 && at < USED_PAGES) assert.equal(Buffer.from(content ?? []).readUInt32LE(nth * PAGE_BYTES), at + 1);
    }
  });
  stream.resume();
  stream.end(bytes);
  await new Promise((resolve) => stream.once("close", resolve));
  return failure ?? pages;
}

const get = (run: Partial<PageRun>): Buffer => encodeMessage({ kind: "get", run: { process: PROCESS, page: 0, pageCount: 1, ...run } });

test("what can't be asked for is answered with the reason, and with no page", async (t) => {
  await using task = new ArenaProcess(2 * USED_PAGES, USED_PAGES);
  await task.started();
  await task.tell(0, "fill", 0, USED_PAGES, 1);
  const { pid, arenaPage } = task;
  const cases: Readonly<Record<string, readonly [Buffer, string]>> = {
    "of a process that the container does not have": [get({ process: 6, page: arenaPage }), "PROTOCOL"],
    "where nothing is mapped": [get({ page: 2 ** 34 }), "KERNEL"],
    "beyond every address": [get({ page: 2 ** 51 }), "KERNEL"],
    "pages that it sends itself": [encodeMessage({ kind: "pages", run: { process: PROCESS, page: arenaPage, pageCount: 1 } }), "PROTOCOL"],
    "something else": [Buffer.alloc(32, 0x55), "PROTOCOL"],
  };
  for (const [what, [bytes, code]] of Object.entries(cases)) {
    await t.test(what, async () => {
      const failure = await ask(pid, bytes, arenaPage);
      assert.ok(failure instanceof DmigrateError && failure.code === code, String(failure));
    });
  }
});

test("who asks and takes nothing is cut before its questions take much memory", async () => {
  await using task = new ArenaProcess(USED_PAGES, USED_PAGES);
  await task.started();
  const { source, target } = await served(task.pid, true);
  target.on("error", () => {}).write(Buffer.concat(Array.from({ length: 5000 }, () => get({ page: task.arenaPage }))));
  const [reason] = (await once(source, "error")) as [unknown];
  assert.ok(reason instanceof DmigrateError && reason.code === "PROTOCOL", String(reason));
});

test("whatever is asked, what comes is right", async () => {
  await using task = new ArenaProcess(2 * USED_PAGES, USED_PAGES);
  await task.started();
  await task.tell(0, "fill", 0, USED_PAGES, 1);
  const { pid, arenaPage } = task;
  const run = fc.tuple(fc.nat(USED_PAGES - 1), fc.integer({ min: 1, max: 20 }));
  await fc.assert(
    fc.asyncProperty(fc.array(run, { minLength: 1, maxLength: 8 }), fc.option(harms), async (runs, harm) => {
      const gets = runs.map(([page, pageCount]) => get({ page: arenaPage + page, pageCount: Math.min(pageCount, USED_PAGES - page) }));
      const bytes = harm === null ? Buffer.concat(gets) : harm(Buffer.concat(gets));
      const answer = await ask(pid, bytes, arenaPage);
      if (harm !== null) return assert.ok(!(answer instanceof Error) || answer instanceof DmigrateError, String(answer));
      const expected = runs.flatMap(([page, pageCount]) =>
        Array.from({ length: Math.min(pageCount, USED_PAGES - page) }, (_, nth) => page + nth),
      );
      assert.deepEqual(answer, expected);
    }),
    { numRuns: 60 },
  );
});
