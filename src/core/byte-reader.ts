/**
 * Reads a stream of bytes in portions of given length, however its chunks are cut.
 */
import { DmigrateError } from "../core/errors.ts";

export class ByteReader {
  readonly #chunks: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array();

  constructor(stream: AsyncIterable<Uint8Array>) {
    this.#chunks = stream[Symbol.asyncIterator]();
  }

  /** Exactly `length` bytes. Throws TRANSFER_FAILED if the stream ends before. */
  async take(length: number): Promise<Buffer> {
    const taken = Buffer.alloc(length);
    let at = 0;
    for await (const part of this.stream(length)) {
      taken.set(part, at);
      at += part.length;
    }
    return taken;
  }

  /** Exactly `length` bytes, in pieces as they come. Throws TRANSFER_FAILED if the stream ends before. */
  async *stream(length: number): AsyncGenerator<Uint8Array, void> {
    for (let missing = length; missing > 0;) {
      if (!(await this.#fill())) throw new DmigrateError("TRANSFER_FAILED", `The stream ended ${missing} bytes too early; try again`);
      const part = this.#rest.subarray(0, missing);
      this.#rest = this.#rest.subarray(part.length);
      missing -= part.length;
      yield part;
    }
  }

  /** True if the stream has ended. */
  async atEnd(): Promise<boolean> {
    return !(await this.#fill());
  }

  /** Gets more bytes if there are none; false at the end. */
  async #fill(): Promise<boolean> {
    while (this.#rest.length === 0) {
      const next = await this.#chunks.next();
      if (next.done === true) return false;
      this.#rest = next.value;
    }
    return true;
  }

  /** Gives up the rest of the stream. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#chunks.return?.();
  }
}
