/**
 * The outgoing side of a stream: small pieces put together, large ones passed on as they are.
 */

/** Pieces up to this size are copied into a batch; larger ones belong to whoever receives the stream. */
export const SMALL_BYTES: number = 32 * 1024;
const BATCH_BYTES = 256 * 1024;

export class Batches {
  readonly #full: Uint8Array[] = [];
  #open = Buffer.allocUnsafeSlow(BATCH_BYTES);
  #filled = 0;

  add(pieces: readonly Uint8Array[]): void {
    for (const piece of pieces) {
      if (piece.length > SMALL_BYTES || this.#filled + piece.length > BATCH_BYTES) this.#close();
      if (piece.length > SMALL_BYTES) {
        this.#full.push(piece);
      } else {
        this.#open.set(piece, this.#filled);
        this.#filled += piece.length;
      }
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
    if (this.#filled === 0) return;
    this.#full.push(this.#open.subarray(0, this.#filled));
    this.#open = Buffer.allocUnsafeSlow(BATCH_BYTES);
    this.#filled = 0;
  }
}
