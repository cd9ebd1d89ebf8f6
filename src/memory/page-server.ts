/**
 * A page server as CRIU's stock daemon wants it: answers the GETs of a target that has that serve its tasks, in their order, with pages of
 * the frozen tasks, read from their memory when they are asked for. For our own page handler see page-sender.ts.
 */
import type { Duplex } from "node:stream";
import { DmigrateError } from "../core/errors.ts";
import { readAllMemory } from "../kernel/process-memory.ts";
import { encodeMessage, HEADER_BYTES, MessageReader, PAGE_BYTES, type PageRun } from "./page-protocol.ts";

/** Longest answer: of a longer GET the first pages. */
const ANSWER_PAGES_MAX = 128;
/** So many answers are with the connection at a time; what is asked for beyond waits here. */
const ANSWERS_MAX = 8;
/** So many GETs may wait; a target asks for the next few only. */
const GETS_MAX = 4096;
/** What answers a CLOSE: an i32. */
const CLOSED = Buffer.alloc(4);

/** Serves one connection until the target has all it wants, or one of the two ends it. */
export class PageServer {
  readonly #channel: Duplex;
  readonly #tasks: ReadonlyMap<number, number>;
  readonly #sent: (byteCount: number) => void;
  readonly #messages = new MessageReader();
  readonly #gets: PageRun[] = [];
  #isClosing = false;
  /** Buffers are used again: new ones would cost page faults of our own. */
  readonly #free = Array.from({ length: ANSWERS_MAX }, () => Buffer.allocUnsafeSlow(HEADER_BYTES + ANSWER_PAGES_MAX * PAGE_BYTES));

  private constructor(channel: Duplex, tasks: ReadonlyMap<number, number>, sent: (byteCount: number) => void) {
    this.#channel = channel;
    this.#tasks = tasks;
    this.#sent = sent;
  }

  /**
   * Serves a connection from now on.
   * @param tasks process ids on this host by those inside the container; none of them runs
   * @param sent is told how many bytes go to the target
   */
  static serve(channel: Duplex, tasks: ReadonlyMap<number, number>, sent: (byteCount: number) => void): void {
    const server = new PageServer(channel, tasks, sent);
    channel.on("data", (chunk: Buffer) => server.#orFail(() => server.#take(chunk)));
    channel.on("error", () => {}); // its end says enough: the target knows what it lacks
  }

  #orFail(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#channel.destroy(DmigrateError.from(error));
    }
  }

  #take(chunk: Buffer): void {
    for (let at = 0; at < chunk.length;) {
      const { next, message } = this.#messages.read(chunk, at);
      at = next;
      if (message?.kind === "close") this.#isClosing = true;
      else if (message?.kind === "get" && this.#gets.length < GETS_MAX) this.#gets.push(message.run);
      else if (message !== undefined)
        throw new DmigrateError(
          "PROTOCOL",
          "The target asked for too many pages at once, or sent some; update both agents to the same release",
        );
    }
    this.#answer();
  }

  /** Answers as many GETs as there is room for in buffers, in order; short answers leave together. */
  #answer(): void {
    while (this.#gets.length > 0) {
      const buffer = this.#free.pop();
      if (buffer === undefined) return;
      let byteCount = 0;
      for (let run = this.#gets[0]; run !== undefined && byteCount + answerBytes(run) <= buffer.length; run = this.#gets[0]) {
        byteCount += this.#read(run, buffer.subarray(byteCount, byteCount + answerBytes(run)));
        this.#gets.shift();
      }
      this.#sent(byteCount);
      this.#channel.write(buffer.subarray(0, byteCount), () => {
        this.#free.push(buffer);
        this.#orFail(() => this.#answer());
      });
    }
    if (this.#isClosing) this.#channel.end(CLOSED);
  }

  #read({ process, page, pageCount }: PageRun, answer: Buffer): number {
    const pid = this.#tasks.get(process);
    if (pid === undefined)
      throw new DmigrateError("PROTOCOL", `The target asked for pages of process ${process}, which the container does not have`);
    const run = { process, page, pageCount: Math.min(pageCount, ANSWER_PAGES_MAX) };
    encodeMessage({ kind: "pages", run }).copy(answer);
    readAllMemory(pid, page * PAGE_BYTES, answer.subarray(HEADER_BYTES));
    return answer.length;
  }
}

function answerBytes({ pageCount }: PageRun): number {
  return HEADER_BYTES + Math.min(pageCount, ANSWER_PAGES_MAX) * PAGE_BYTES;
}
