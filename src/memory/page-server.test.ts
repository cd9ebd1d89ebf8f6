/** The source's answers to GETs: pages of a real process, in order, and nothing for a target that asks for what there is not. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { describe, it } from "node:test";
import { ArenaProcess } from "./arena-process.fixture.ts";
import { encodeMessage, HEADER_BYTES, MessageReader, PAGE_BYTES, type PageRun } from "./page-protocol.ts";
import { PageServer } from "./page-server.ts";

const PROCESS = 7;

interface Answer {
  readonly run: PageRun;
  /** What each page begins with. */
  readonly values: readonly number[];
}

/** Asks for pages and takes all answers, and what comes behind them. */
async function ask(target: Duplex, runs: readonly PageRun[]): Promise<{ readonly answers: Answer[]; readonly last: Buffer }> {
  target.write(Buffer.concat([...runs.map((run) => encodeMessage({ kind: "get", run })), encodeMessage({ kind: "close" })]));
  const bytes = Buffer.concat(await target.toArray());
  const answers: Answer[] = [];
  let at = 0;
  for (const _ of runs) {
    const { message } = new MessageReader().read(bytes.subarray(0, at + HEADER_BYTES), at);
    assert.ok(message?.kind === "pages");
    const { run } = message;
    const pagesAt = at + HEADER_BYTES;
    answers.push({ run, values: Array.from({ length: run.pageCount }, (_page, nth) => bytes.readUInt32LE(pagesAt + nth * PAGE_BYTES)) });
    at = pagesAt + run.pageCount * PAGE_BYTES;
  }
  return { answers, last: bytes.subarray(at) };
}

/** Both ends of a connection that copies what is written to it. */
async function connection(): Promise<[Socket, Socket]> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const one = connect((server.address() as AddressInfo).port, "127.0.0.1"); // it listens on TCP
  const [other] = (await once(server, "connection")) as [Socket]; // as node:net documents
  server.close();
  return [one, other];
}

async function serve(): Promise<{ task: ArenaProcess; target: Duplex; sentBytes: () => number }> {
  const task = new ArenaProcess(600, 400);
  await task.started();
  const [target, channel] = await connection();
  let sentBytes = 0;
  PageServer.serve(channel, new Map([[PROCESS, task.pid]]), (byteCount) => (sentBytes += byteCount));
  return { task, target, sentBytes: () => sentBytes };
}

void describe("a page server", { timeout: 60_000 }, () => {
  void it("answers in order, of a long GET the first pages, until it is closed", async () => {
    const { task, target, sentBytes } = await serve();
    await using _task = task;
    for (const page of [0, 1, 2, 300]) await task.tell(0, "write", page, 1000 + page);
    const runs = [
      { process: PROCESS, page: task.arenaPage, pageCount: 3 },
      { process: PROCESS, page: task.arenaPage + 300, pageCount: 1 },
      { process: PROCESS, page: task.arenaPage, pageCount: 400 },
      ...Array.from({ length: 50 }, () => ({ process: PROCESS, page: task.arenaPage + 1, pageCount: 1 })),
    ];
    const { answers, last } = await ask(target, runs);
    assert.deepEqual(answers[0]?.values, [1000, 1001, 1002]);
    assert.deepEqual(answers[1]?.values, [1300]);
    assert.equal(answers[2]?.run.pageCount, 128);
    assert.ok(answers.slice(3).every(({ values }) => values[0] === 1001));
    assert.deepEqual(last, Buffer.alloc(4));
    assert.equal(sentBytes(), (3 + 1 + 128 + 50) * PAGE_BYTES + runs.length * HEADER_BYTES);
  });

  void it("has pages that the process itself may not read", async () => {
    const { task, target } = await serve();
    await using _task = task;
    await task.tell(0, "write", 5, 77);
    await task.tell(0, "hide", 5, 1);
    const { answers } = await ask(target, [{ process: PROCESS, page: task.arenaPage + 4, pageCount: 2 }]);
    assert.deepEqual(answers[0]?.values, [0, 77]);
  });

  for (const [what, run] of [
    ["of a process that there is not", { process: 8, page: 1, pageCount: 1 }],
    ["where there is no memory", { process: PROCESS, page: 1, pageCount: 1 }],
  ] as const) {
    void it(`ends the connection with a target that asks for pages ${what}`, async () => {
      const { task, target } = await serve();
      await using _task = task;
      target.resume();
      target.on("error", () => {});
      target.write(encodeMessage({ kind: "get", run }));
      await once(target, "close");
    });
  }
});
