/**
 * Where a page handler gets its pages: the source, by whatever they cross.
 */
import type { PageRun } from "./page-protocol.ts";

/** How urgent pages are: whether a task waits for the first of them, or they come ahead of that. */
export type Urgency = "demanded" | "ahead";

export interface PageSource {
  /** Asks for pages, each run of one range. They come later, in any order. */
  ask(runs: readonly PageRun[], urgency: Urgency): void;
  /**
   * To be called once, before anything is asked for.
   * @param take gets pages; their bytes are valid during the call, and undefined if they are zeros. What it throws ends the source.
   * @param lost is called when no more pages come by this, and why; `isFinal` if the source has none any more, by whatever way
   */
  receive(take: (run: PageRun, bytes: Uint8Array | undefined) => void, lost: (error: unknown, isFinal: boolean) => void): void;
  /** No more pages are wanted. */
  end(): void;
}
