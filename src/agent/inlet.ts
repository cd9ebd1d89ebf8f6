/**
 * Where the bytes of a connection arrive that this host has dialled: in one buffer, used again and again. Node's sockets give every chunk
 * memory of its own otherwise, and the kernel's page faults for that cost several times as much as the bytes do.
 */
import type { OnReadOpts } from "node:net";

/** The kernel gives this much at once, if it has it; a TLS connection one record. */
const BUFFER_BYTES = 256 << 10;

export class Inlet {
  /** For the socket. */
  readonly onread: OnReadOpts;
  /** What has arrived before somebody took it. */
  #early = Buffer.alloc(0);
  #take: ((chunk: Uint8Array) => void) | undefined;
  #arrived: (() => void) | undefined;

  constructor() {
    const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
    this.onread = {
      buffer,
      callback: (byteCount) => {
        const chunk = buffer.subarray(0, byteCount);
        if (this.#take === undefined) this.#early = Buffer.concat([this.#early, chunk]);
        else this.#take(chunk);
        this.#arrived?.();
        return true;
      },
    };
  }

  /** Returns so many bytes once they are there. Whoever waits looks after the end of the connection. */
  async read(byteCount: number): Promise<Uint8Array> {
    while (this.#early.length < byteCount) await new Promise<void>((resolve) => (this.#arrived = resolve));
    const bytes = this.#early.subarray(0, byteCount);
    this.#early = this.#early.subarray(byteCount);
    return bytes;
  }

  /** Gives whatever arrives from now on to `take`, first what is here. Chunks are valid during the call. */
  receive(take: (chunk: Uint8Array) => void): void {
    this.#take = take;
    const early = this.#early;
    this.#early = Buffer.alloc(0);
    if (early.length > 0) take(early);
  }
}
