/**
 * Serves the pages of frozen tasks to the target: by the channels of one trunk, and of the next when that has broken, until the migration
 * is over.
 */
import { once } from "node:events";
import { openPageChannels, servePages, type PageChannels } from "../page-channels.ts";
import type { ChannelKind } from "../channels.ts";
import type { TrunkStream } from "../../transfer/stream.ts";

export class PageServing {
  readonly #tasks: ReadonlyMap<number, number>;
  #channels: PageChannels;
  #sentBytes: () => number;
  #lostSinceMs: number | undefined;

  /**
   * Serves them from now on.
   * @param tasks process ids on this host by those inside the container; none of them runs
   */
  constructor(channels: PageChannels, tasks: ReadonlyMap<number, number>) {
    this.#channels = channels;
    this.#tasks = tasks;
    this.#sentBytes = servePages(channels, tasks);
  }

  /** How many bytes of pages have gone to the target so far. */
  get sentBytes(): number {
    return this.#sentBytes();
  }

  /** For how long the target has had no way to its pages. */
  get lostForMs(): number {
    return this.#lostSinceMs === undefined ? 0 : performance.now() - this.#lostSinceMs;
  }

  /**
   * From the commit on: goes on by other channels whenever these break. Returns when `signal` is aborted.
   * @param renewed returns when there is another trunk
   * @param open opens a channel on it
   * @param tellRenewed is called when pages cross again
   */
  async goOn(
    renewed: (signal: AbortSignal) => Promise<void>,
    open: (kind: ChannelKind) => Promise<TrunkStream>,
    tellRenewed: () => void,
    signal: AbortSignal,
  ): Promise<void> {
    while (!signal.aborted) {
      const next = renewed(signal);
      next.catch(() => {}); // told below
      await closed(this.#channels.demanded, signal);
      this.#lostSinceMs ??= performance.now();
      try {
        await next;
        this.#channels = await openPageChannels(open);
      } catch {
        continue; // it has broken again, or this is over
      }
      const before = this.#sentBytes();
      const sentBytes = servePages(this.#channels, this.#tasks);
      this.#sentBytes = () => before + sentBytes();
      this.#lostSinceMs = undefined;
      tellRenewed();
    }
  }
}

async function closed(stream: TrunkStream, signal: AbortSignal): Promise<void> {
  if (!stream.closed) await once(stream, "close", { signal }).catch(() => {}); // this is over
}
