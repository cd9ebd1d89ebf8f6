/**
 * A page plane on this machine: the memory of one process becomes that of another, by the agent's own page server, in a process of its own
 * (page-source.ts), and its page handler, here.
 */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import type { Duplex } from "node:stream";
import { connect as connectTls } from "node:tls";
import { fileURLToPath } from "node:url";
import { LazySocket } from "../../src/criu/lazy-socket.ts";
import { InputWatch } from "../../src/kernel/epoll.ts";
import { ArenaProcess } from "../../src/memory/arena-process.fixture.ts";
import { PageHandler } from "../../src/memory/page-handler.ts";
import { encodeMessage, PAGE_BYTES } from "../../src/memory/page-protocol.ts";
import { PageStore } from "../../src/memory/page-store.ts";

/** As the source numbers it. */
export const PROCESS = 1;
const SOURCE = fileURLToPath(new URL("page-source.ts", import.meta.url));
/** What page `page` of the arena holds. */
export const FIRST_VALUE = 1;

export class Plane implements AsyncDisposable {
  readonly #task: ArenaProcess;
  readonly #handler: PageHandler;
  readonly #open: AsyncDisposableStack;
  readonly #pageCount: number;

  private constructor(task: ArenaProcess, handler: PageHandler, open: AsyncDisposableStack, pageCount: number) {
    this.#task = task;
    this.#handler = handler;
    this.#open = open;
    this.#pageCount = pageCount;
  }

  /** A restored task that lacks all of its memory. */
  static async open(kind: "clear" | "tls", pageCount: number, { isCopiedAhead = false } = {}): Promise<Plane> {
    await using open = new AsyncDisposableStack();
    const folder = mkdtempSync(path.join(tmpdir(), "dmigrate-bench-"));
    open.defer(() => rmSync(folder, { recursive: true }));
    const source = open.adopt(spawn(process.execPath, [SOURCE, kind, String(pageCount)], { stdio: ["pipe", "pipe", "inherit"] }), end);
    const [port = 0, firstPage = 0] = (await firstLine(source)).split(" ").map(Number);
    const channel = await connection(kind, port);
    open.defer(() => void channel.destroy());

    const store = open.use(new PageStore(isCopiedAhead ? pageCount : 0));
    if (isCopiedAhead) await store.receive(roundOf(firstPage, pageCount));
    const watch = open.use(new InputWatch());
    const lazy = new Map([[PROCESS, [{ page: firstPage, pageCount }]]]);
    const handler = open.use(new PageHandler(channel, lazy, watch, () => {}, new Map(), store));
    const adopted = Promise.withResolvers<void>();
    const task = open.use(new ArenaProcess(pageCount, pageCount, { file: path.join(folder, "lazy-pages.socket"), process: PROCESS }));
    open.use(
      new LazySocket(folder, watch, {
        task: (process, fd) => {
          handler.adopt(process, fd);
          adopted.resolve();
        },
        failed: adopted.reject,
      }),
    );
    await task.started();
    assert.equal(task.arenaPage, firstPage, "both have their arena at the same address");
    await task.sendUserfaultfd();
    await adopted.promise;
    handler.restored();
    return new Plane(task, handler, open.move(), pageCount);
  }

  /** Returns when the task has all of its memory. */
  async fetchAll(): Promise<void> {
    this.#handler.fetchAhead();
    await this.#handler.finished;
  }

  /** Has the task touch its first pages, one after the other. Returns for how long it waited for each, in microseconds. */
  async touch(pageCount: number): Promise<number[]> {
    return (await this.#task.tell(0, "touch", 0, pageCount)).split(" ").map((nanoseconds) => Number(nanoseconds) / 1000);
  }

  /** Every 1000th page is the source's. */
  async assertRight(): Promise<void> {
    for (let page = 0; page < this.#pageCount; page += 1000) assert.deepEqual(await this.#task.read(0, page, 1), [FIRST_VALUE + page]);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#open.disposeAsync();
  }
}

async function end(child: ChildProcess): Promise<void> {
  child.stdin?.end();
  if (child.exitCode === null) await once(child, "exit");
}

async function firstLine(child: ChildProcess): Promise<string> {
  assert.ok(child.stdout !== null);
  for await (const line of createInterface({ input: child.stdout })) return line;
  throw new Error("the source ended; what it says stands above");
}

async function connection(kind: "clear" | "tls", port: number): Promise<Duplex> {
  const at = { host: "127.0.0.1", port };
  // The source is a child of this process; who it is has no part in what is measured.
  const channel = kind === "clear" ? connect(at) : connectTls({ ...at, minVersion: "TLSv1.3", rejectUnauthorized: false });
  await once(channel, kind === "clear" ? "connect" : "secureConnect");
  channel.setNoDelay(true);
  return channel;
}

/** A round of memory with all pages. */
async function* roundOf(firstPage: number, pageCount: number): AsyncGenerator<Uint8Array, void> {
  yield encodeMessage({ kind: "pages", run: { process: PROCESS, page: firstPage, pageCount } });
  for (let page = 0; page < pageCount; page++) yield Buffer.alloc(PAGE_BYTES, Uint8Array.from(Uint32Array.of(FIRST_VALUE + page)));
}
