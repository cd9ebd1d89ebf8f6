/** Pages of real processes whose memory is lazy, from a source that sends them in any order. Needs root. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, it } from "node:test";
import { setImmediate as turn, setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import * as fc from "fast-check";
import { arenaCommands, assertAllRight, obey, type Model } from "../../memory/arena-commands.fixture.ts";
import { ArenaProcess } from "../../memory/arena-process.fixture.ts";
import { DmigrateError } from "../../core/errors.ts";
import { imageOf } from "../../criu/image-fixture.ts";
import { readLazyRanges } from "../../criu/pagemap.ts";
import { writeWrittenPages } from "../../criu/written-pages.ts";
import { PageComparison } from "../../memory/page-digests.ts";
import { PageStore } from "../../memory/page-store.ts";
import { MessageReader, PAGE_BYTES, type PageRun } from "../../memory/page-protocol.ts";
import type { TrunkStream } from "../../transfer/stream.ts";
import { Pile } from "../../transfer/pile.ts";
import { Trunk } from "../../transfer/trunk.ts";
import { wire } from "../../transfer/wires.fixture.ts";
import { PAGE_CHANNELS } from "../channels.ts";
import { openPageChannels, type PageChannels } from "../page-channels.ts";
import { openTaskPages, type TaskPages } from "./pages.ts";

const PROCESS = 5;
const ARENA_PAGES = 640;
/** Of the first of them the dump has no pages for every 16th: the task had never touched it. The others are a large range. */
const HOLED_PAGES = 256;
const HOLE_EVERY = 16;
const LAZY_PAGES = 600;

const DYING_AGENT = fileURLToPath(new URL("dying-agent.fixture.ts", import.meta.url));

/** What the page had on the source: no two the same, none zero. */
const valueOf = (page: number): number => (page < HOLED_PAGES && page % HOLE_EVERY === HOLE_EVERY - 1 ? 0 : 1000 + page);

/** The folders of a restore, with a pagemap of the arena's lazy pages. */
class Folders implements Disposable {
  readonly folder = mkdtempSync(path.join(tmpdir(), "dmigrate-pages-"));
  readonly images: string = path.join(this.folder, "images");
  readonly work: string = path.join(this.folder, "work");

  constructor() {
    for (const each of [this.images, this.work]) mkdirSync(each);
    writeFileSync(path.join(this.images, "pstree.img"), imageOf(0, []));
  }

  get socketFile(): string {
    return path.join(this.work, "lazy-pages.socket");
  }

  writePagemap(arenaPage: number): void {
    const entries: Buffer[] = [];
    for (let page = 0; page < HOLED_PAGES; page += HOLE_EVERY)
      entries.push(pagemapEntry(BigInt(arenaPage + page) * BigInt(PAGE_BYTES), HOLE_EVERY - 1));
    entries.push(pagemapEntry(BigInt(arenaPage + HOLED_PAGES) * BigInt(PAGE_BYTES), LAZY_PAGES - HOLED_PAGES));
    const image = Buffer.concat([Buffer.alloc(8), entry(Buffer.from([0x08, 1])), ...entries]);
    image.writeUInt32LE(0x54564319, 0);
    image.writeUInt32LE(0x56084025, 4);
    writeFileSync(path.join(this.images, `pagemap-${PROCESS}.img`), image);
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function entry(bytes: Buffer): Buffer {
  const size = Buffer.alloc(4);
  size.writeUInt32LE(bytes.length);
  return Buffer.concat([size, bytes]);
}

function pagemapEntry(address: bigint, pageCount: number): Buffer {
  const lazyAndPresent = 6;
  return entry(Buffer.from([0x08, ...varint(address), 0x10, ...varint(BigInt(pageCount)), 0x20, lazyAndPresent]));
}

function varint(value: bigint): number[] {
  return value < 128n ? [Number(value)] : [Number(value & 127n) | 128, ...varint(value >> 7n)];
}

/** How a source behaves: how many turns of the event loop pieces take on each of its connections, and what they are cut into. */
interface Manners {
  readonly turns: readonly number[];
  readonly chunkBytes: readonly number[];
  /** So many requests it answers and no more. */
  readonly answersMax: number;
  /** Of this page it sends another bit. */
  readonly altered?: number;
  /** What it sends behind each answer, which was not asked for. */
  readonly stray?: (answered: PageRun) => PageRun;
}

/** A trunk to a source that has the arena's pages. */
interface Source {
  readonly channels: PageChannels;
  readonly cut: () => void;
  /** Why the target does not want its trunk any more. */
  readonly broken: Promise<Error | undefined>;
  /** It can't read the tasks' memory any more. */
  readonly fail: () => void;
}

async function openSource(arenaPage: number, { turns, chunkBytes, answersMax, altered, stray }: Manners): Promise<Source> {
  const arrived = new Map<string, TrunkStream>();
  const there = new Trunk(() => assert.fail("the target opens none"));
  const here = new Trunk((stream) => {
    stream.accept();
    arrived.set(stream.name, stream);
  });
  let count = 0;
  for (const lane of ["reserved", "shared", "shared"] as const) {
    const [near, far] = wire();
    there.join(far, lane);
    here.join(near, lane, (use) => {
      const pile = new Pile(use);
      let before = Promise.resolve();
      near.on("data", (chunk: Buffer) => {
        before = before.then(async () => {
          for (let left = turns[count++ % turns.length] ?? 0; left > 0; left--) await turn();
          for (let at = 0; at < chunk.length;) {
            const end = at + (chunkBytes[count++ % chunkBytes.length] ?? chunk.length);
            const memory = Uint8Array.from(chunk.subarray(at, end));
            pile.add(memory);
            memory.fill(0xee); // it is used again
            at = end;
          }
        });
      });
    });
  }
  const { demanded, ahead } = await openPageChannels(({ name, transferClass }) => there.open(name, transferClass));
  let answers = 0;
  const answer = (stream: TrunkStream, run: PageRun): void => {
    assert.equal(run.process, PROCESS);
    if (answers++ < answersMax) {
      stream.sendPages(
        [run],
        ({ page, pageCount }, into) => {
          fillPages(page - arenaPage, into);
          const nth = (altered ?? NaN) - (page - arenaPage);
          if (nth >= 0 && nth < pageCount) into[nth * PAGE_BYTES + 1000]! ^= 8;
          return pageCount;
        },
        () => {},
      );
      if (stray !== undefined)
        stream.sendPages(
          [stray(run)],
          ({ pageCount }, into) => {
            into.fill(0xbb);
            return pageCount;
          },
          () => {},
        );
    }
  };
  for (const stream of [demanded, ahead]) {
    const messages = new MessageReader();
    stream.on("error", () => {});
    stream.on("data", (chunk: Buffer) => {
      for (let at = 0; at < chunk.length;) {
        const { next, message } = messages.read(chunk, at);
        at = next;
        if (message?.kind === "get") answer(stream, message.run);
      }
    });
  }
  const channel = (use: keyof PageChannels): TrunkStream => arrived.get(PAGE_CHANNELS[use].name) ?? assert.fail(use);
  return {
    channels: { demanded: channel("demanded"), ahead: channel("ahead"), criu: channel("criu") },
    cut: () => there.destroy(),
    broken: here.over,
    fail: () => void ahead.destroy(),
  };
}

function fillPages(first: number, into: Uint8Array): void {
  for (let nth = 0; nth < into.length / PAGE_BYTES; nth++) {
    const value = valueOf(first + nth);
    assert.notEqual(value, 0, "asked for a page that is not lazy");
    Buffer.from(into.buffer, into.byteOffset).fill(Buffer.from(Uint32Array.of(value).buffer), nth * PAGE_BYTES, (nth + 1) * PAGE_BYTES);
  }
}

/** Pages that were copied ahead; if they were written afterwards they do not hold what they should. */
interface CopiedAhead {
  readonly from: number;
  readonly count: number;
  readonly isWritten: boolean;
  /** Nobody has noticed that they were written. */
  readonly isMissed?: true;
}

/** A round with these pages alone. Those that are not lazy have something in the copy that the task must never see. */
function copyAhead(store: PageStore, arenaPage: number, { from, count, isWritten }: CopiedAhead): void {
  const values = Array.from({ length: count }, (_, nth) => (isWritten ? 77 : valueOf(from + nth) || 78));
  const bytes = values.map((value) => Buffer.alloc(PAGE_BYTES, Buffer.from(Uint32Array.of(value).buffer)));
  store.take({ process: PROCESS, page: arenaPage + from, pageCount: count }, Buffer.concat(bytes));
}

const AT_ONCE: Manners = { turns: [0], chunkBytes: [1 << 20], answersMax: Infinity };

/** A process that was restored just now. */
async function restore(
  folders: Folders,
  manners: Manners,
  ahead: readonly CopiedAhead[] = [],
): Promise<{ task: ArenaProcess; pages: TaskPages; source: Source }> {
  const store = new PageStore(ARENA_PAGES);
  const pages = openTaskPages("own", folders, store, "priority", true);
  const task = new ArenaProcess(ARENA_PAGES, LAZY_PAGES, { file: folders.socketFile, process: PROCESS });
  await task.started();
  folders.writePagemap(task.arenaPage);
  for (const each of ahead) copyAhead(store, task.arenaPage, each);
  const told = ahead.filter(({ isWritten, isMissed }) => isWritten && isMissed !== true);
  const written = told.map(({ from, count }) => ({ page: task.arenaPage + from, pageCount: count }));
  writeWrittenPages(folders.images, new Map([[PROCESS, written]]));
  const source = await openSource(task.arenaPage, manners);
  await pages.serve(source.channels);
  await task.sendUserfaultfd();
  return { task, pages, source };
}

/** The tasks run, and nobody knows of a source any more. */
async function givenUp(pages: TaskPages): Promise<unknown> {
  const finished = pages.finish();
  pages.giveUp(new DmigrateError("PEER_REFUSED", "No trunk is expected; migrate again"));
  return await finished;
}

/** What a source finds that compares what the task was given with what it has. */
function comparison(folders: Folders, task: ArenaProcess, pages: TaskPages): PageComparison {
  const found = new PageComparison(readLazyRanges(folders.images), new Map(), ({ page }, into) => fillPages(page - task.arenaPage, into));
  for (const run of pages.given?.runs() ?? assert.fail()) found.take(run);
  return found;
}

void describe("lazy pages", { timeout: 120_000 }, () => {
  void it("are there for a task that reads them all at once, before the restore is over", async () => {
    using folders = new Folders();
    const { task, pages } = await restore(folders, AT_ONCE);
    await using _task = task;
    assert.deepEqual(
      await task.read(0, 0, LAZY_PAGES),
      Array.from({ length: LAZY_PAGES }, (_, page) => valueOf(page)),
    );
    pages.restored();
    const counts = await pages.finish();
    assert.equal(counts.total, LAZY_PAGES - HOLED_PAGES / HOLE_EVERY);
    assert.equal(counts.demanded + counts.pushed, counts.total);
  });

  void it("come by themselves, and afterwards nothing is left of the handler", async () => {
    using folders = new Folders();
    const { task, pages } = await restore(folders, AT_ONCE);
    await using _task = task;
    pages.restored();
    const counts = await pages.finish();
    assert.equal(counts.pushed, counts.total);
    assert.deepEqual(await task.read(0, 0, 20), [...Array(20).keys()].map(valueOf));
  });

  void it("are not asked for if they were copied ahead and not written since", async () => {
    using folders = new Folders();
    const ahead = [
      { from: 0, count: LAZY_PAGES, isWritten: false },
      { from: 20, count: 3, isWritten: true },
    ];
    const { task, pages } = await restore(folders, AT_ONCE, ahead);
    await using _task = task;
    assert.deepEqual(await task.read(0, 10, 6), [10, 11, 12, 13, 14, 15].map(valueOf), "before the restore is over");
    pages.restored();
    const { total, copiedAhead, demanded, pushed } = await pages.finish();
    assert.deepEqual({ copiedAhead, demanded, pushed }, { copiedAhead: total - 3, demanded: 0, pushed: 3 });
    assert.deepEqual(
      await task.read(0, 0, LAZY_PAGES),
      Array.from({ length: LAZY_PAGES }, (_, page) => valueOf(page)),
    );
  });

  void it("come at the pace that is set, but for those that a task waits for", async () => {
    using folders = new Folders();
    const { task, pages } = await restore(folders, AT_ONCE);
    await using _task = task;
    await using _pages = pages;
    pages.restored();
    let waits = 0;
    let isFinished = false;
    void pages.finish({ waitMs: () => (waits++ === 0 ? 86_400_000 : 0) }).then(() => (isFinished = true));
    for (const page of [LAZY_PAGES - 2, HOLED_PAGES + 100]) assert.deepEqual(await task.read(0, page, 1), [valueOf(page)]);
    assert.deepEqual([waits, isFinished], [1, false]);
  });

  void it("come a turn after each wait, however long these are", async () => {
    using folders = new Folders();
    const { task, pages } = await restore(folders, AT_ONCE, [{ from: 0, count: 100, isWritten: false }]);
    await using _task = task;
    pages.restored();
    let waits = 0;
    const { total, copiedAhead } = await pages.finish({ waitMs: () => 1 + (waits++ % 3) * 20 }); // also longer than pages take to come
    assert.ok(copiedAhead > 0 && copiedAhead < total);
    assert.ok(waits > 1, `${waits} waits`);
    assert.deepEqual(await task.read(0, 150, 1), [valueOf(150)]);
  });

  void it("are all as the source has them, whatever way they came, and those are counted that were given back before", async () => {
    using folders = new Folders();
    const { task, pages } = await restore(folders, AT_ONCE, [{ from: 0, count: 100, isWritten: false }]);
    await using _task = task;
    await task.read(0, 120, 2);
    pages.restored();
    await task.tell(0, "empty", 16, 3);
    const { total } = await pages.finish();
    assert.deepEqual(comparison(folders, task, pages).end(), { same: total - 3, different: 0, released: 3 });
  });

  void it("are found if a bit of one changed on the way, or one was written and nobody had noticed", async () => {
    using folders = new Folders();
    const ahead = [{ from: 0, count: 100, isWritten: false } as const, { from: 40, count: 2, isWritten: true, isMissed: true } as const];
    const { task, pages } = await restore(folders, { ...AT_ONCE, altered: 150 }, ahead);
    await using _task = task;
    pages.restored();
    const { total } = await pages.finish();
    const found = comparison(folders, task, pages);
    assert.deepEqual(found.end(), { same: total - 3, different: 3, released: 0 });
    assert.deepEqual(found.different, [
      { process: PROCESS, page: task.arenaPage + 40, pageCount: 2 },
      { process: PROCESS, page: task.arenaPage + 150, pageCount: 1 },
    ]);
  });

  void it("that were copied ahead come also when the source is gone", async () => {
    using folders = new Folders();
    const ahead = [{ from: 0, count: 100, isWritten: false }];
    const { task, pages, source } = await restore(folders, { ...AT_ONCE, answersMax: 0 }, ahead);
    await using _task = task;
    await using _pages = pages;
    pages.restored();
    source.cut();
    await assert.rejects(givenUp(pages), { code: "PEER_REFUSED" });
    assert.deepEqual(await task.read(0, 0, 100), [...Array(100).keys()].map(valueOf));
  });

  void it("are waited for when the source is gone, and what is there can be used meanwhile", async () => {
    using folders = new Folders();
    const { task, pages, source } = await restore(folders, { ...AT_ONCE, answersMax: 3 });
    await using _task = task;
    await using _pages = pages;
    assert.deepEqual(await task.read(0, 0, 1), [valueOf(0)]);
    source.cut();
    pages.restored();
    await assert.rejects(givenUp(pages), { code: "PEER_REFUSED" });
    assert.deepEqual(await task.read(0, HOLE_EVERY - 1, 1), [0], "events are still taken");
    const neverRead = assert.rejects(task.read(0, LAZY_PAGES - 2, 1), /the process ended/);
    await Promise.race([untilItWaits(task), neverRead]);
    await task[Symbol.asyncDispose]();
    await neverRead;
  });

  void it("go on by another trunk when one is cut, whatever was on its way, and whoever waits", async () => {
    for (const answersMax of [0, 1, 5, 9]) {
      using folders = new Folders();
      const { task, pages, source } = await restore(folders, { turns: [1, 0, 3], chunkBytes: [100, 50_000], answersMax });
      await using _task = task;
      pages.restored();
      const finished = pages.finish();
      const reading = task.read(0, 0, LAZY_PAGES);
      await Promise.race([untilItWaits(task), reading]);
      source.cut();
      const again = await openSource(task.arenaPage, { turns: [2, 1, 0], chunkBytes: [70_000], answersMax: Infinity });
      await turn(); // the loss of the first may be seen before or after
      pages.resume(again.channels);
      const values = Array.from({ length: LAZY_PAGES }, (_, page) => valueOf(page));
      assert.deepEqual(await reading, values, `after ${answersMax} answers`);
      const { total, demanded, pushed, zero } = await finished;
      assert.equal(total, demanded + pushed + zero);
    }
  });

  void it("are not all there because none is on its way and nobody can be asked", async () => {
    using folders = new Folders();
    const { task, pages, source } = await restore(folders, AT_ONCE);
    await using _task = task;
    await task.read(0, 0, HOLED_PAGES); // what comes early is here
    pages.restored();
    const turnMs = 50;
    let waits = 0;
    const finished = pages.finish({ waitMs: () => (waits++ === 0 ? turnMs : 0) });
    source.cut();
    await sleep(2 * turnMs); // in which it is their turn, and the source is gone
    pages.resume((await openSource(task.arenaPage, AT_ONCE)).channels);
    await finished;
    assert.deepEqual(await task.read(0, LAZY_PAGES - 1, 1), [valueOf(LAZY_PAGES - 1)]);
  });

  void it("come by another trunk when one is cut after the restore, before the tasks run", async () => {
    using folders = new Folders();
    const { task, pages, source } = await restore(folders, { ...AT_ONCE, answersMax: 0 });
    await using _task = task;
    pages.restored();
    source.cut();
    await Promise.all(Object.values(source.channels).map((channel) => new Promise((resolve) => channel.once("close", resolve))));
    const finished = pages.finish();
    pages.resume((await openSource(task.arenaPage, AT_ONCE)).channels);
    await finished;
    assert.deepEqual(await task.read(0, 0, 1), [valueOf(0)]);
  });

  for (const [what, stray] of Object.entries<(answered: PageRun) => PageRun>({
    "come twice": (answered) => answered,
    "nobody asked for": ({ process, page }) => ({ process, page: page + ARENA_PAGES, pageCount: 1 }),
    "no task lacks": ({ process, page }) => ({ process, page: page - (page % HOLE_EVERY) + HOLE_EVERY - 1, pageCount: 1 }),
    "are of another process": ({ page }) => ({ process: PROCESS + 1, page, pageCount: 1 }),
  })) {
    void it(`that ${what} are given to nobody: the trunk is cut, and those that are missing come by the next one`, async () => {
      using folders = new Folders();
      const { task, pages, source } = await restore(folders, { ...AT_ONCE, answersMax: 0 });
      await using _task = task;
      pages.restored();
      const finished = pages.finish();
      source.cut();
      const astray = await openSource(task.arenaPage, { ...AT_ONCE, stray });
      const written = task.tell(0, "write", 3, 12_345); // waits for what was there; what comes twice must not replace it
      pages.resume(astray.channels);
      const reason = await astray.broken;
      assert.ok(reason instanceof DmigrateError && reason.code === "PROTOCOL", String(reason));
      const again = await openSource(task.arenaPage, AT_ONCE);
      pages.resume(again.channels);
      await written;
      const values = Array.from({ length: LAZY_PAGES }, (_, page) => (page === 3 ? 12_345 : valueOf(page)));
      assert.deepEqual(await task.read(0, 0, LAZY_PAGES), values);
      await finished;
    });
  }

  void it("that come before the handover though nobody asked for them end the restore with the reason", async () => {
    using folders = new Folders();
    const { task, pages, source } = await restore(folders, { ...AT_ONCE, stray: (answered) => answered });
    await using _task = task;
    await using _pages = pages;
    const read = task.read(0, 0, 20);
    await assert.rejects(pages.failure, { code: "PROTOCOL" });
    await source.broken;
    void read.catch(() => {});
  });

  void it("are given to nobody when the process runs another program, and to its child all the same", async () => {
    using folders = new Folders();
    const { task, pages } = await restore(folders, AT_ONCE);
    await using _task = task;
    pages.restored();
    await task.tell(0, "fork", 4);
    await task.answer(1);
    await task.execute(); // its address space is a new one
    const finished = pages.finish();
    assert.deepEqual(await task.read(0, 0, LAZY_PAGES), Array(LAZY_PAGES).fill(0));
    assert.deepEqual(
      await task.read(1, 0, LAZY_PAGES),
      Array.from({ length: LAZY_PAGES }, (_, page) => valueOf(page)),
    );
    await finished;
  });

  void it("are waited for by nobody when the only process runs another program, or has ended", async () => {
    for (const end of ["exec", "exit"] as const) {
      using folders = new Folders();
      const { task, pages } = await restore(folders, AT_ONCE);
      await using _task = task;
      pages.restored();
      assert.deepEqual(await task.read(0, 3, 2), [3, 4].map(valueOf));
      if (end === "exec") await task.execute();
      else await assert.rejects(task.tell(0, "exit"), /the process ended/);
      const { total, demanded, pushed, zero } = await pages.finish();
      assert.equal(total, demanded + pushed + zero);
    }
  });

  void it("are there for the others when one of several processes has ended", async () => {
    using folders = new Folders();
    const { task, pages } = await restore(folders, AT_ONCE);
    await using _task = task;
    pages.restored();
    for (const slot of [1, 2]) {
      await task.tell(0, "fork", 3 + slot);
      await task.answer(slot);
    }
    void task.tell(1, "exit").catch(() => {}); // answers nothing
    while (!(await statesOfChildren(task)).includes("Z")) await sleep(2);
    const finished = pages.finish();
    for (const slot of [2, 0])
      assert.deepEqual(
        await task.read(slot, 0, LAZY_PAGES),
        Array.from({ length: LAZY_PAGES }, (_, page) => valueOf(page)),
      );
    await finished;
  });

  void it("are right for hundreds of children that are forked at once, each of which ends soon", async () => {
    using folders = new Folders();
    const { task, pages } = await restore(folders, { turns: [1, 0, 3], chunkBytes: [100, 50_000], answersMax: Infinity });
    await using _task = task;
    pages.restored();
    assert.equal(await task.tell(0, "storm", 100, 16, 15, valueOf(16)), "100");
    const finished = pages.finish();
    assert.equal(await task.tell(0, "storm", 200, 32, 15, valueOf(32)), "200");
    assert.deepEqual(
      await task.read(0, 0, LAZY_PAGES),
      Array.from({ length: LAZY_PAGES }, (_, page) => valueOf(page)),
    );
    await finished;
  });

  void it("are not given to a child that does not inherit them, or is to see zeros there", async () => {
    using folders = new Folders();
    const { task, pages, source } = await restore(folders, { ...AT_ONCE, answersMax: 0 });
    await using _task = task;
    const [DONT_FORK, WIPE_ON_FORK] = [10, 18];
    assert.equal(await task.tell(0, "advise", 0, 16, DONT_FORK), "1");
    assert.equal(await task.tell(0, "advise", 16, 16, WIPE_ON_FORK), "1");
    pages.restored();
    await pages.assertServed(new Map([[PROCESS, task.pid]]));
    const finished = pages.finish();
    await task.tell(0, "fork", 4);
    await task.answer(1);
    source.cut();
    pages.resume((await openSource(task.arenaPage, AT_ONCE)).channels);
    assert.deepEqual(await task.read(1, 16, 16), Array(16).fill(0));
    assert.deepEqual(
      await task.read(1, 32, 16),
      Array.from({ length: 16 }, (_, page) => valueOf(32 + page)),
    );
    assert.deepEqual(
      await task.read(0, 0, 48),
      Array.from({ length: 48 }, (_, page) => valueOf(page)),
    );
    await finished;
  });

  void it("come no more when the source has none any more, whatever becomes of the trunk", async () => {
    using folders = new Folders();
    const { task, pages, source } = await restore(folders, { ...AT_ONCE, answersMax: 3 });
    await using _task = task;
    await using _pages = pages;
    pages.restored();
    const finished = assert.rejects(pages.finish(), { code: "TRANSFER_FAILED" });
    source.fail();
    await finished;
  });

  void it("are not waited for in the restore when the source was gone before", async () => {
    using folders = new Folders();
    folders.writePagemap(0);
    await using pages = openTaskPages("own", folders, new PageStore(0));
    const { channels, cut } = await openSource(0, AT_ONCE);
    cut();
    await Promise.all(Object.values(channels).map((channel) => new Promise((resolve) => channel.once("close", resolve))));
    await pages.serve(channels);
    await assert.rejects(pages.failure, { code: "TRANSFER_FAILED" });
  });

  void it("are waited for when the agent is killed, as long as somebody may still come to serve them", async () => {
    using folders = new Folders();
    const agent = spawn(process.execPath, [DYING_AGENT, folders.folder], { stdio: ["pipe", "pipe", "inherit"] });
    await once(agent.stdout, "data");
    await using task = new ArenaProcess(ARENA_PAGES, LAZY_PAGES, { file: folders.socketFile, process: PROCESS });
    await task.started();
    folders.writePagemap(task.arenaPage);
    agent.stdin.write("serve");
    await once(agent.stdout, "data");
    await task.sendUserfaultfd();
    agent.stdin.write("restored");
    await once(agent.stdout, "data");
    let hasRead = false;
    const read = task.read(0, 0, 1).finally(() => (hasRead = true));
    await untilItWaits(task);
    agent.kill("SIGKILL");
    await once(agent, "exit"); // the kernel has closed its descriptors by now
    await untilItWaits(task);
    assert.equal(hasRead, false);
    folders[Symbol.dispose](); // nobody will come: from now on the kernel lets it read zeros, as it would have at once
    assert.deepEqual(await read, [0]);
  });
});

const manners: fc.Arbitrary<Manners> = fc.record({
  turns: fc.array(fc.nat(5), { minLength: 1, maxLength: 5 }),
  chunkBytes: fc.array(fc.integer({ min: 2_000, max: 50_000 }), { minLength: 1, maxLength: 5 }),
  answersMax: fc.constant(Infinity),
});

const copiedAhead: fc.Arbitrary<CopiedAhead[]> = fc.array(
  fc.record({ from: fc.nat(LAZY_PAGES - 50), count: fc.integer({ min: 1, max: 50 }), isWritten: fc.boolean() }),
  { maxLength: 8 },
);

void it("whatever processes do to their memory while its pages arrive, each sees what it would have seen on the source", async () => {
  const sequence = arenaCommands(ARENA_PAGES, { maxLength: 60 });
  await fc.assert(
    fc.asyncProperty(manners, sequence, copiedAhead, fc.nat(20), fc.nat(40), async (behaves, commands, ahead, restoredAt, resumedAfter) => {
      using folders = new Folders();
      const { task, pages } = await restore(folders, behaves, ahead);
      await using _task = task;
      await using _pages = pages;
      const models: Model[] = [Array.from({ length: ARENA_PAGES }, (_, page) => (page < LAZY_PAGES ? valueOf(page) : undefined))];
      let finished: Promise<unknown> | undefined;
      for (const [at, [slot, random]] of commands.entries()) {
        if (at === restoredAt) pages.restored();
        if (at === restoredAt + resumedAfter) finished = pages.finish();
        await obey(task, models, slot % models.length, random);
      }
      if (commands.length <= restoredAt) pages.restored();
      await (finished ?? pages.finish());
      await assertAllRight(task, models);
      assert.equal(comparison(folders, task, pages).end().different, 0);
    }),
    { numRuns: Number(process.env["PAGES_TEST_RUNS"] ?? 12) },
  );
});

/** As ps(1) has them: Z of one that has ended. */
async function statesOfChildren({ pid }: ArenaProcess): Promise<string[]> {
  const children = (await readFile(`/proc/${pid}/task/${pid}/children`, "utf8")).split(" ").filter(Boolean);
  return await Promise.all(children.map(async (child) => /\) (\S)/.exec(await readFile(`/proc/${child}/stat`, "utf8"))?.[1] ?? ""));
}

/** Returns when the task waits for a page. */
async function untilItWaits({ pid }: ArenaProcess): Promise<void> {
  while ((await readFile(`/proc/${pid}/wchan`, "utf8")) !== "handle_userfault") await sleep(2);
}
