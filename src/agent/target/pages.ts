/**
 * How the pages of restored tasks are served: by our own page handler, or by the stock `criu lazy-pages` as a reference.
 */
import { DmigrateError } from "../../core/errors.ts";
import { NO_PAGES, type PageCounts } from "../../core/migration.ts";
import type { TransferOrder } from "../../core/schedule.ts";
import { leaveOutDroppable } from "../../criu/droppable.ts";
import { startLazyPages, type LazyPages } from "../../criu/lazy-pages.ts";
import { LazySocket } from "../../criu/lazy-socket.ts";
import { readLazyRanges } from "../../criu/pagemap.ts";
import { readKernelAreas } from "../../criu/restartable-sequences.ts";
import { readWrittenPages } from "../../criu/written-pages.ts";
import { InputWatch } from "../../kernel/epoll.ts";
import { GivenPages } from "../../memory/page-digests.ts";
import { assertRegistered } from "../../memory/registered.ts";
import { PageHandler, type FetchPace } from "../../memory/page-handler.ts";
import { PageKeeper } from "../../memory/page-keeper.ts";
import { PageProxy } from "../../memory/page-proxy.ts";
import type { PageRange } from "../../memory/page-ranges.ts";
import type { PageStore } from "../../memory/page-store.ts";
import { PagesBySource, type PageChannels } from "../page-channels.ts";

type LazyRanges = ReadonlyMap<number, readonly PageRange[]>;

/** Which one, as the agent's configuration names it. */
type PageHandlerKind = "own" | "criu";

/** Where a restore finds its things. */
interface RestoreFolders {
  /** Exists as long as the tasks may lack pages, whoever looks after them. */
  readonly folder: string;
  readonly images: string;
  readonly work: string;
}

/** Serves the tasks of one restore. Disposing of it gives them up: only before they run. */
export interface TaskPages extends AsyncDisposable {
  /** Begins: all images are there, the source answers requests for pages, the restore comes next. Throws RESTORE_FAILED, PROTOCOL. */
  serve(channels: PageChannels): Promise<void>;
  /**
   * Throws RESTORE_FAILED if a task lacks a page that it would not be given. Every task is restored, and none runs.
   * @param tasks process ids on this host by those inside the container
   */
  assertServed(tasks: ReadonlyMap<number, number>): Promise<void>;
  /** From `serve` on: what the tasks were given, if that is asked for and can be told. */
  readonly given: GivenPages | undefined;
  /** From `serve` on: rejected when no more pages come, for one of which a restore may wait (TRANSFER_FAILED, PROTOCOL, KERNEL). */
  readonly failure: Promise<never>;
  /** The tasks run, and the trunk has broken: goes on by the channels of another one, if it can. */
  resume(channels: PageChannels): void;
  /** Nobody brings the pages that are missing any more, so `finish` throws this. */
  giveUp(error: unknown): void;
  /** Every task is restored and none runs yet. When this returns, they wait for missing pages even if this process dies. */
  restored(): void;
  /**
   * The tasks run, or wait for this: from now on also such pages come as none waits for. Returns when no task lacks a page; throws
   * TRANSFER_FAILED, PROTOCOL or KERNEL if that can't be. The tasks wait then.
   * @param pace of those pages, if not as fast as can be; the stock daemon has its own
   */
  finish(pace?: FetchPace): Promise<PageCounts>;
}

/**
 * Makes ready what can be made ready before the freeze.
 * @param store what was copied ahead; the stock daemon has no use for it
 * @param verify whether to keep digests of what tasks are given; the stock daemon can't
 */
export function openTaskPages(
  kind: PageHandlerKind,
  folders: RestoreFolders,
  store: PageStore,
  order: TransferOrder = "priority",
  verify = false,
): TaskPages {
  switch (kind) {
    case "own":
      return new OwnPages(folders, store, order, verify);
    case "criu":
      return new CriuPages(folders);
  }
}

class OwnPages implements TaskPages {
  readonly #images: string;
  readonly #store: PageStore;
  readonly #order: TransferOrder;
  readonly #open = new AsyncDisposableStack();
  readonly #watch: InputWatch;
  readonly #socket: LazySocket;
  readonly #keeper: PageKeeper;
  #handler: PageHandler | undefined;
  readonly #verify: boolean;
  #lazy: LazyRanges = new Map();
  given: GivenPages | undefined;

  constructor({ folder, images, work }: RestoreFolders, store: PageStore, order: TransferOrder, verify: boolean) {
    this.#order = order;
    this.#verify = verify;
    this.#images = images;
    this.#store = store;
    this.#watch = this.#open.use(new InputWatch());
    this.#socket = this.#open.use(
      new LazySocket(work, this.#watch, {
        task: (process, fd) => needed(this.#handler).adopt(process, fd),
        failed: (error) => this.#handler?.fail(error),
      }),
    );
    this.#open.defer(() => this.#handler?.[Symbol.dispose]());
    this.#keeper = this.#open.use(new PageKeeper(folder)); // ended first: as long as a userfaultfd is open, its faults must be served
  }

  async serve(channels: PageChannels): Promise<void> {
    this.#lazy = readLazyRanges(this.#images);
    const written = readWrittenPages(this.#images);
    this.#store.settle(written);
    if (this.#verify) this.given = new GivenPages(this.#lazy, readKernelAreas(this.#images));
    this.#handler = new PageHandler(
      new PagesBySource(channels, this.#order),
      this.#lazy,
      this.#watch,
      (fd) => this.#keeper.keep(fd),
      written,
      this.#store,
      this.#order,
      this.given,
    );
  }

  async assertServed(tasks: ReadonlyMap<number, number>): Promise<void> {
    needed(this.#handler).wipedOnFork(await assertRegistered(this.#lazy, tasks));
  }

  resume(channels: PageChannels): void {
    needed(this.#handler).resume(new PagesBySource(channels, this.#order));
  }

  giveUp(error: unknown): void {
    needed(this.#handler).fail(error);
  }

  get failure(): Promise<never> {
    return needed(this.#handler).finished.then(() => new Promise<never>(() => {}));
  }

  restored(): void {
    this.#socket.drain();
    needed(this.#handler).restored();
  }

  async finish(pace?: FetchPace): Promise<PageCounts> {
    const handler = needed(this.#handler);
    handler.fetchAhead(pace);
    await handler.finished;
    await this.#open.disposeAsync();
    return withZero({ ...handler.counts });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#open.disposeAsync();
  }
}

class CriuPages implements TaskPages {
  readonly #folders: RestoreFolders;
  #daemon: LazyPages | undefined;
  #proxy: PageProxy | undefined;
  readonly given = undefined;

  constructor(folders: RestoreFolders) {
    this.#folders = folders;
  }

  async serve({ criu: source }: PageChannels): Promise<void> {
    const { images, work } = this.#folders;
    leaveOutDroppable(images);
    this.#daemon = await startLazyPages(images, work);
    this.#proxy = new PageProxy(this.#daemon.pageServer, source, readLazyRanges(images));
  }

  async assertServed(): Promise<void> {
    // The daemon fills memory as soon as it is there: what it has filled is not registered any more.
  }

  resume(): void {
    // The stock daemon can't: it has failed.
  }

  giveUp(): void {
    // So it has.
  }

  get failure(): Promise<never> {
    return needed(this.#proxy).failure;
  }

  restored(): void {
    // The daemon hears it from CRIU.
  }

  async finish(): Promise<PageCounts> {
    const proxy = needed(this.#proxy);
    await Promise.race([needed(this.#daemon).finished, proxy.failure]);
    return withZero({ ...proxy.counts, copiedAhead: 0, waits: NO_PAGES.waits });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#daemon?.kill();
  }
}

/** What is there and has not crossed was given back by its tasks before it was due: it begins with zeros if they touch it again. */
function withZero(counts: Omit<PageCounts, "zero">): PageCounts {
  return { ...counts, zero: counts.total - counts.copiedAhead - counts.demanded - counts.pushed };
}

function needed<T>(value: T | undefined): T {
  if (value === undefined)
    throw new DmigrateError("INTERNAL", "Pages were asked for before they could be served; please report this as a bug");
  return value;
}
