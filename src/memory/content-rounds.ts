/**
 * Copies never-lazy memory ahead while tasks run, in rounds, by its content: each round has the pages whose content the target has not had.
 * In the freeze CRIU's images cross as references to these, wherever a page lies in them (src/criu/image-stream.ts).
 */
import { KnownContent } from "./known-content.ts";
import { findNeverLazy, readNeverLazy } from "./never-lazy.ts";
import { PAGE_BYTES } from "./page-protocol.ts";
import type { RoundSink, Tasks } from "./rounds.ts";

/** Of less, nothing is copied ahead: it crosses as quickly in the freeze. */
const WORTH_BYTES = 1 << 20;
/** Where the target keeps content there are no processes. */
export const NO_PROCESS = 0;

/** What is to be known of a container. */
export interface Container {
  readonly tasks: Tasks;
  /** Of its first task. */
  readonly initPid: number;
  /** Inodes of shared memory that is copied otherwise. */
  readonly except: () => { has(inode: bigint): boolean };
}

export class ContentRounds {
  readonly known = new KnownContent();
  readonly #container: Container;

  constructor(container: Container) {
    this.#container = container;
  }

  /**
   * Sends the next round, the number of its content in place of a page's. The tasks run. Throws KERNEL.
   * @param turn is awaited before each piece is looked at
   */
  async round(sink: RoundSink, turn: () => Promise<void>): Promise<void> {
    const { tasks, initPid, except } = this.#container;
    const found = findNeverLazy(tasks.pids(), initPid, except());
    if (found.byteCount < WORTH_BYTES) return;
    for await (const piece of readNeverLazy(found)) {
      await turn();
      await this.#send(sink, piece);
    }
  }

  async #send(sink: RoundSink, piece: Uint8Array): Promise<void> {
    for (const { at, number, pageCount } of this.known.learn(piece)) {
      await sink.sendPages([{ process: NO_PROCESS, page: number, pageCount }], ({ page }, into) => {
        const from = (at + page - number) * PAGE_BYTES;
        into.set(piece.subarray(from, from + into.length));
        return into.length / PAGE_BYTES;
      });
    }
  }
}
