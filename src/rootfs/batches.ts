/**
 * The outgoing side of a stream: small pieces put together, large ones passed on as they are.
 */

/** Pieces up to this size are copied into a batch; larger ones belong to whoever receives the stream. */
export const SMALL_BYTES: number = 32 * 1024;
const BATCH_BYTES = 256 * 1024;

export class Batches {
  readonly #full: Uint8Array[] = [];
  #buffer = Buffer.allocUnsafeSlow(BATCH_BYTES);
  /** The open batch lies between these two. */
  #start = 0;
  #end = 0;

  add(pieces: readonly Uint8Array[]): void {
    for (const piece of pieces) {
      if (piece.length > SMALL_BYTES) {
        this.#close();
        this.#full.push(piece);
        continue;
      }
      if (this.#end + piece.length > BATCH_BYTES) {
        this.#close();
        this.#buffer = Buffer.allocUnsafeSlow(BATCH_BYTES);
        this.#start = this.#end = 0;
      }
      this.#buffer.set(piece, this.#end);
      this.#end += piece.length;
    }
  }

  /** Takes what is ready to be sent. */
  take(): Uint8Array[] {
    return this.#full.splice(0);
  }

  /** Takes everything. */
  finish(): Uint8Array[] {
    this.#close();
    return this.take();
  }

  #close(): void {
    if (this.#start < this.#end) this.#full.push(this.#buffer.subarray(this.#start, this.#end));
    this.#start = this.#end;
  }
}
