/**
 * The source's end of the page plane: answers the target's GETs with pages of the frozen tasks, each read from their memory when it is its
 * turn to leave.
 */
import type { Duplex } from "node:stream";
import { DmigrateError, messageOf } from "../core/errors.ts";
import { readAllMemory } from "../kernel/process-memory.ts";
import { MessageReader, PAGE_BYTES, type PageRun } from "./page-protocol.ts";

/** So many GETs may wait; a target asks for the next few only. */
const GETS_MAX = 4096;

/** A stream by which pages can be sent out of their order. */
export interface PageStream extends Duplex {
  /**
   * @param read puts pages of a run where they are to leave from; returns how many
   * @param done is called when all of them have left, or can't any more
   */
  sendPages(runs: Iterable<PageRun>, read: (run: PageRun, into: Uint8Array) => number, done: () => void): void;
}

/**
 * Reads pages of frozen tasks. What it returns throws PROTOCOL for a process that is none of them, KERNEL for what can't be read.
 * @param tasks process ids on this host by those inside the container
 */
export function pagesOf(tasks: ReadonlyMap<number, number>): (run: PageRun, into: Uint8Array) => void {
  return ({ process, page }, into) => {
    const pid = tasks.get(process);
    if (pid === undefined)
      throw new DmigrateError(
        "PROTOCOL",
        `The target asked for pages of process ${process}, which the container does not have; update both agents to the same release`,
      );
    try {
      readAllMemory(pid, page * PAGE_BYTES, into);
    } catch (error) {
      const where = `0x${(page * PAGE_BYTES).toString(16)}`;
      throw new DmigrateError(
        "KERNEL",
        `The memory of process ${process} at ${where} can't be read on the source: ${messageOf(error)}; see whether it is still there`,
        error,
      );
    }
  };
}

/**
 * Serves a stream from now on, until the target ends it. One whose target asks for what there is not is destroyed.
 * @param tasks process ids on this host by those inside the container; none of them runs
 */
export function sendPages(stream: PageStream, tasks: ReadonlyMap<number, number>): void {
  const messages = new MessageReader();
  let getCount = 0;
  const pages = pagesOf(tasks);
  const read = (run: PageRun, into: Uint8Array): number => {
    pages(run, into);
    return run.pageCount;
  };
  const take = (chunk: Buffer): void => {
    for (let at = 0; at < chunk.length;) {
      const { next, message } = messages.read(chunk, at);
      at = next;
      if (message === undefined) continue;
      if (message.kind !== "get" || getCount >= GETS_MAX)
        throw new DmigrateError(
          "PROTOCOL",
          "The target asked for too many pages at once, or sent some; update both agents to the same release",
        );
      getCount += 1;
      stream.sendPages([message.run], read, () => (getCount -= 1));
    }
  };
  stream.on("data", (chunk: Buffer) => {
    try {
      take(chunk);
    } catch (error) {
      stream.destroy(DmigrateError.from(error));
    }
  });
  stream.on("error", () => {}); // its end says enough: the target knows what it lacks
}
