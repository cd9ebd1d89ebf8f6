/**
 * The channels for pages: the source opens those for both kinds of page handler, and the target uses those of its own.
 */
import type { TrunkStream } from "../transfer/stream.ts";
import { DmigrateError } from "../core/errors.ts";
import type { TransferOrder } from "../core/schedule.ts";
import { whenClosed } from "../memory/closed.ts";
import { encodeMessage, type PageRun } from "../memory/page-protocol.ts";
import { sendPages } from "../memory/page-sender.ts";
import { PageServer } from "../memory/page-server.ts";
import type { PageSource, Urgency } from "../memory/page-source.ts";
import { PAGE_CHANNELS, type ChannelKind } from "./channels.ts";

/**
 * How long either side waits for the other while the target has no way to its pages. They are not lost as long as the frozen tasks stand:
 * this is time for whoever runs these hosts, to mend a link, or an agent that does not start.
 */
export const PAGES_LOST_LIMIT_MS: number = 24 * 3_600_000;

/** Each by what it is for. */
export type PageChannels = Readonly<Record<keyof typeof PAGE_CHANNELS, TrunkStream>>;

/** Opens all of them. */
export async function openPageChannels(open: (kind: ChannelKind) => Promise<TrunkStream>): Promise<PageChannels> {
  const [demanded, ahead, criu] = await Promise.all([open(PAGE_CHANNELS.demanded), open(PAGE_CHANNELS.ahead), open(PAGE_CHANNELS.criu)]);
  return { demanded, ahead, criu };
}

/**
 * On the source: serves them from now on.
 * @param tasks process ids on this host by those inside the container; none of them runs
 * @returns how many bytes of pages have gone to the target so far
 */
export function servePages({ demanded, ahead, criu }: PageChannels, tasks: ReadonlyMap<number, number>): () => number {
  let byteCount = 0;
  sendPages(demanded, tasks);
  sendPages(ahead, tasks);
  PageServer.serve(criu, tasks, (sentBytes) => (byteCount += sentBytes));
  return () => byteCount + demanded.pageBytes + ahead.pageBytes;
}

/** On the target: what a page handler of our own gets its pages by. */
export class PagesBySource implements PageSource {
  readonly #streams: Readonly<Record<Urgency, TrunkStream>>;
  #isEnding = false;

  /** @param order `fifo`: one page waits for the other, whoever wants it */
  constructor({ demanded, ahead }: PageChannels, order: TransferOrder) {
    this.#streams = { demanded: order === "fifo" ? ahead : demanded, ahead };
  }

  ask(runs: readonly PageRun[], urgency: Urgency): void {
    this.#streams[urgency].write(Buffer.concat(runs.map((run) => encodeMessage({ kind: "get", run }))));
  }

  receive(take: (run: PageRun, bytes: Uint8Array | undefined) => void, lost: (error: unknown, isFinal: boolean) => void): void {
    for (const stream of new Set(Object.values(this.#streams))) {
      const lose = (error: unknown): void => {
        if (!this.#isEnding) lost(error, stream.wasReset);
      };
      stream.on("error", lose);
      whenClosed(stream, () =>
        lose(new DmigrateError("TRANSFER_FAILED", "The connection for pages was cut; check the network between the hosts")),
      );
      stream.receivePages((run, bytes) => {
        try {
          take(run, bytes);
        } catch (error) {
          stream.breakTrunk(DmigrateError.from(error)); // by another one they are asked for again
        }
      });
      stream.resume(); // nothing else comes by it, but its end
    }
  }

  end(): void {
    this.#isEnding = true;
    for (const stream of new Set(Object.values(this.#streams))) stream.end();
  }
}
