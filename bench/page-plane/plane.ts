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
import type { Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { fileURLToPath } from "node:url";
import { LazySocket } from "../../src/criu/lazy-socket.ts";
import { InputWatch } from "../../src/kernel/epoll.ts";
import { ArenaProcess } from "../../src/memory/arena-process.fixture.ts";
import { Inlet } from "../../src/agent/inlet.ts";
import { PagesBySource } from "../../src/agent/page-channels.ts";
import { TLS } from "../../src/agent/tls.ts";
import type { Lane, TransferOrder } from "../../src/core/schedule.ts";
import { PageHandler } from "../../src/memory/page-handler.ts";
import type { Urgency } from "../../src/memory/page-source.ts";
import type { TrunkStream } from "../../src/transfer/stream.ts";
import { Trunk } from "../../src/transfer/trunk.ts";
import { PAGE_BYTES } from "../../src/memory/page-protocol.ts";
import { PageStore } from "../../src/memory/page-store.ts";
import { ShapedLink } from "./shaped-link.ts";

/** As the source numbers it. */
export const PROCESS = 1;
const SOURCE = fileURLToPath(new URL("page-source.ts", import.meta.url));
/** As an agent's trunk has them. */
export const CONNECTIONS = 3;
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

  /**
   * A restored task that lacks all of its memory.
   * @param rate of the link between them, in bits a second; none if they are to share this host's loopback interface
   */
  static async open(
    kind: "clear" | "tls",
    pageCount: number,
    { isCopiedAhead = false, order = "priority", rate }: { isCopiedAhead?: boolean; order?: TransferOrder; rate?: number } = {},
  ): Promise<Plane> {
    await using open = new AsyncDisposableStack();
    const folder = mkdtempSync(path.join(tmpdir(), "dmigrate-bench-"));
    open.defer(() => rmSync(folder, { recursive: true }));
    const link = rate === undefined ? undefined : open.use(await ShapedLink.create(rate));
    const argv = [...(link?.prefix ?? []), process.execPath, SOURCE, kind, String(pageCount), order];
    const source = open.adopt(spawn(argv[0] ?? "", argv.slice(1), { stdio: ["pipe", "pipe", "inherit"] }), end);
    const [port = 0, firstPage = 0] = (await firstLine(source)).split(" ").map(Number);
    const { trunk, streams } = await trunkTo(kind, link?.address ?? "127.0.0.1", port, order);
    open.defer(() => trunk.destroy());

    const store = open.use(new PageStore(isCopiedAhead ? pageCount : 0));
    if (isCopiedAhead) copyAhead(store, firstPage, pageCount);
    const watch = open.use(new InputWatch());
    const lazy = new Map([[PROCESS, [{ page: firstPage, pageCount }]]]);
    const handler = open.use(
      new PageHandler(new PagesBySource({ ...streams, criu: streams.ahead }, order), lazy, watch, () => {}, new Map(), store, order),
    );
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

  /** Has the task touch pages, that far from each other. Returns for how long it waited for each, in microseconds. */
  async touch(from: number, pageCount: number, stride: number): Promise<number[]> {
    return (await this.#task.tell(0, "touch", from, pageCount, stride)).split(" ").map((nanoseconds) => Number(nanoseconds) / 1000);
  }

  /** Lets all pages come, as after a handover; `fetchAll` returns when they have. */
  fetchAhead(): void {
    this.#handler.fetchAhead();
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

export function laneOf(connection: number): Lane {
  return connection === 0 ? "reserved" : "shared";
}

async function trunkTo(
  kind: "clear" | "tls",
  host: string,
  port: number,
  order: TransferOrder,
): Promise<{ trunk: Trunk; streams: Readonly<Record<Urgency, TrunkStream>> }> {
  const streams = new Map<string, TrunkStream>();
  const opened = Promise.withResolvers<void>();
  const trunk = new Trunk((stream) => {
    stream.accept();
    if (streams.set(stream.name, stream).size === 2) opened.resolve();
  }, order);
  for (let connection = 0; connection < CONNECTIONS; connection++) {
    const inlet = new Inlet();
    trunk.join(await dial(kind, host, port, inlet), laneOf(connection), (use) => inlet.receive(use));
  }
  await opened.promise;
  const [demanded, ahead] = [streams.get("demanded"), streams.get("ahead")];
  assert.ok(demanded !== undefined && ahead !== undefined);
  return { trunk, streams: { demanded, ahead } };
}

async function dial(kind: "clear" | "tls", host: string, port: number, { onread }: Inlet): Promise<Socket> {
  const at = { host, port, onread };
  // The source is a child of this process; who it is has no part in what is measured.
  const socket = kind === "clear" ? connect(at) : connectTls({ ...at, ...TLS, rejectUnauthorized: false });
  await once(socket, kind === "clear" ? "connect" : "secureConnect");
  return socket.setNoDelay(true).resume();
}

/** Puts all pages into a store. */
function copyAhead(store: PageStore, firstPage: number, pageCount: number): void {
  for (let nth = 0; nth < pageCount; nth++) {
    const bytes = Buffer.alloc(PAGE_BYTES, Uint8Array.from(Uint32Array.of(FIRST_VALUE + nth)));
    store.take({ process: PROCESS, page: firstPage + nth, pageCount: 1 }, bytes);
  }
}
