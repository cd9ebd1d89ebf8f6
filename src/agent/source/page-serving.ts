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
  #channels: PageChannels | undefined;
  #sentBytes: () => number = () => 0;
  #lostSinceMs: number | undefined;

  /**
   * Serves them from now on, or, for an agent after the one that froze the tasks, from when the target has dialled again on.
   * @param tasks process ids on this host by those inside the container; none of them runs
   */
  constructor(tasks: ReadonlyMap<number, number>, channels?: PageChannels) {
    this.#tasks = tasks;
    if (channels === undefined) this.#lostSinceMs = performance.now();
    else this.#serve(channels);
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
   * From the commit on: goes on by other channels whenever these break. Returns when `signal` is aborted; nothing is served then.
   * @param dialled returns how many trunks the target has dialled so far, once that is more than so many
   * @param open opens a channel on the last one
   * @param tellRenewed is called when pages cross again
   */
  async goOn(
    dialled: (more: number, signal: AbortSignal) => Promise<number>,
    open: (kind: ChannelKind) => Promise<TrunkStream>,
    tellRenewed: () => void,
    signal: AbortSignal,
  ): Promise<void> {
    let trunks = this.#channels === undefined ? 0 : 1;
    while (!signal.aborted) {
      if (this.#channels !== undefined) await closed(this.#channels.demanded, signal);
      this.#lostSinceMs ??= performance.now();
      try {
        trunks = await dialled(trunks, signal);
        this.#serve(await openPageChannels(open));
      } catch {
        continue; // it has broken again, or this is over
      }
      this.#lostSinceMs = undefined;
      tellRenewed();
    }
    for (const channel of Object.values(this.#channels ?? {})) channel.destroy();
  }

  #serve(channels: PageChannels): void {
    this.#channels = channels;
    const before = this.#sentBytes();
    const sentBytes = servePages(channels, this.#tasks);
    this.#sentBytes = () => before + sentBytes();
  }
}

async function closed(stream: TrunkStream, signal: AbortSignal): Promise<void> {
  if (!stream.closed) await once(stream, "close", { signal }).catch(() => {}); // this is over
}
