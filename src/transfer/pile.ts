/**
 * Bytes that come in chunks of any size, for who uses them in pieces of its own: what is not used yet is put before what follows.
 */
export class Pile {
  readonly #use: (bytes: Uint8Array) => number;
  #bytes = Buffer.alloc(0);
  #byteCount = 0;

  /** @param use gets what there is, valid during the call, and says how much of it it has used */
  constructor(use: (bytes: Uint8Array) => number) {
    this.#use = use;
  }

  add(chunk: Uint8Array): void {
    if (this.#byteCount === 0) return this.#keep(chunk.subarray(this.#use(chunk)));
    this.#keep(chunk);
    const used = this.#use(this.#bytes.subarray(0, this.#byteCount));
    this.#bytes.copyWithin(0, used, this.#byteCount);
    this.#byteCount -= used;
  }

  #keep(chunk: Uint8Array): void {
    const byteCount = this.#byteCount + chunk.length;
    if (byteCount > this.#bytes.length) {
      const larger = Buffer.allocUnsafe(2 * byteCount);
      this.#bytes.copy(larger, 0, 0, this.#byteCount);
      this.#bytes = larger;
    }
    this.#bytes.set(chunk, this.#byteCount);
    this.#byteCount = byteCount;
  }
}
