/**
 * The target's end of the page plane: what the stock `criu lazy-pages` takes for a page server of its own host. It asks the source
 * before it is asked itself, so that most pages are here when a task touches them.
 */
import type { Duplex } from "node:stream";
import { DmigrateError } from "../core/errors.ts";
import { whenClosed } from "./closed.ts";
import { PagePlan, type PageAnswer, type PlanCounts, type PlanLimits } from "./page-plan.ts";
import { encodeMessage, MessageReader, PAGE_BYTES, type PageMessage } from "./page-protocol.ts";
import type { PageRange } from "./page-ranges.ts";

const MEBIBYTE = (1 << 20) / PAGE_BYTES;

/** Measured with redis under load on two cores. `answerMin` is what CRIU asks for after a task touched a page. */
const LIMITS: PlanLimits = {
  stored: 64 * MEBIBYTE,
  inFlight: MEBIBYTE / 2,
  get: MEBIBYTE / 8,
  touched: 16,
  around: 64,
  answerMin: 16,
  answerMax: 256,
};

/** The answer to CLOSE: an int that says that all went well. */
const CLOSED = Buffer.alloc(4);

/** Serves one `criu lazy-pages`. */
export class PageProxy {
  /**
   * Rejected when the conversation ends before its end, with PROTOCOL or TRANSFER_FAILED. The client is left waiting then, and the tasks
   * wait for their pages: if it ended, the kernel would give them empty ones (userfaultfd(2)).
   */
  readonly failure: Promise<never>;
  readonly #client: Duplex;
  readonly #source: Duplex;
  readonly #plan: PagePlan;
  readonly #clientMessages = new MessageReader();
  readonly #sourceMessages = new MessageReader();
  /** Bytes of pages that follow the message from the source. */
  #bytesToCome = 0;
  #isClosing = false;

  /**
   * @param client the connection to `criu lazy-pages`
   * @param source the connection to the source's page server
   * @param processes the lazy ranges of each process, in ascending order
   */
  constructor(client: Duplex, source: Duplex, processes: ReadonlyMap<number, readonly PageRange[]>) {
    const { promise, reject } = Promise.withResolvers<never>();
    promise.catch(() => {}); // told to whoever waits for the pages
    this.failure = promise;
    this.#client = client;
    this.#source = source;
    this.#plan = new PagePlan(processes, LIMITS);
    const fail = (error: unknown): void => {
      if (this.#isClosing) return; // the client has all it wants
      reject(DmigrateError.from(error, "TRANSFER_FAILED"));
      source.destroy();
    };
    const orFail = (take: (chunk: Buffer) => void) => (chunk: Buffer) => {
      try {
        take(chunk);
      } catch (error) {
        fail(error);
      }
    };
    client.on(
      "data",
      orFail((chunk) => this.#takeFromClient(chunk)),
    );
    source.on(
      "data",
      orFail((chunk) => this.#takeFromSource(chunk)),
    );
    client.on("error", fail);
    source.on("error", fail);
    client.on("close", () => source.end());
    whenClosed(source, () =>
      fail(new DmigrateError("TRANSFER_FAILED", "The connection for pages was cut; check the network between the hosts")),
    );
  }

  get counts(): PlanCounts {
    return this.#plan.counts;
  }

  #takeFromClient(chunk: Buffer): void {
    for (let at = 0; at < chunk.length;) {
      const { next, message } = this.#clientMessages.read(chunk, at);
      at = next;
      if (message !== undefined) this.#obey(message);
    }
    this.#goOn();
  }

  #obey(message: PageMessage): void {
    switch (message.kind) {
      case "get":
        this.#plan.ask(message.run);
        return;
      case "close":
        this.#isClosing = true;
        this.#source.write(encodeMessage(message));
        this.#client.write(CLOSED);
        return;
      case "pages":
      case "hole":
        throw new DmigrateError("PROTOCOL", "criu lazy-pages sent pages instead of asking for them; please report this as a bug");
    }
  }

  #takeFromSource(chunk: Buffer): void {
    for (let at = 0; at < chunk.length;) at = this.#bytesToCome > 0 ? this.#takePages(chunk, at) : this.#takeMessage(chunk, at);
    this.#goOn();
  }

  #takePages(chunk: Buffer, at: number): number {
    const next = this.#plan.fill(chunk, at);
    this.#bytesToCome -= next - at;
    return next;
  }

  #takeMessage(chunk: Buffer, at: number): number {
    if (this.#isClosing && !this.#plan.isWaiting) return chunk.length; // the answer to CLOSE, which the client has
    const { next, message } = this.#sourceMessages.read(chunk, at);
    if (message === undefined) return next;
    if (message.kind !== "pages")
      throw new DmigrateError("PROTOCOL", "The source's page server asked instead of answering; please report this as a bug");
    this.#plan.begin(message.run);
    this.#bytesToCome = message.run.pageCount * PAGE_BYTES;
    return next;
  }

  /** Answers and asks what can be answered and asked now. */
  #goOn(): void {
    for (let answer = this.#plan.nextAnswer(); answer !== undefined; answer = this.#plan.nextAnswer()) this.#answer(answer);
    if (this.#isClosing) return;
    const gets: Buffer[] = [];
    for (let run = this.#plan.nextGet(); run !== undefined; run = this.#plan.nextGet()) gets.push(encodeMessage({ kind: "get", run }));
    if (gets.length > 0) this.#source.write(Buffer.concat(gets));
  }

  #answer({ run, bytes }: PageAnswer): void {
    this.#client.cork();
    this.#client.write(encodeMessage({ kind: "pages", run }));
    for (const chunk of bytes) this.#client.write(chunk);
    this.#client.uncork();
  }
}
