/**
 * Where the bytes of a connection arrive that this host has dialled: in one buffer, used again and again, one behind the other until
 * somebody can use them. Node's sockets give every chunk memory of its own otherwise, and the kernel's page faults for that cost several
 * times as much as the bytes do.
 */
import type { OnReadOpts } from "node:net";

/** The kernel gives this much at once, if it has it; a TLS connection one record. */
const READ_BYTES = 256 << 10;
/** Less than a whole frame may lie before what is read, and is moved together. */
const BUFFER_BYTES = 768 << 10;

export class Inlet {
  /** For the socket. */
  readonly onread: OnReadOpts;
  readonly #buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  /** What has arrived and was not used yet. */
  #start = 0;
  #end = 0;
  #use: ((bytes: Uint8Array) => number) | undefined;
  #arrived: (() => void) | undefined;

  constructor() {
    this.onread = {
      buffer: () => this.#room(),
      callback: (byteCount) => {
        this.#end += byteCount;
        this.#giveOut();
        this.#arrived?.();
        return true;
      },
    };
  }

  /** Returns so many bytes once they are there. Whoever waits looks after the end of the connection. */
  async read(byteCount: number): Promise<Uint8Array> {
    while (this.#end - this.#start < byteCount) await new Promise<void>((resolve) => (this.#arrived = resolve));
    const bytes = Uint8Array.from(this.#buffer.subarray(this.#start, this.#start + byteCount));
    this.#start += byteCount;
    return bytes;
  }

  /** Gives whatever arrives from now on to `use`, first what is here; it says how much of it it has used, and gets the rest again. */
  receive(use: (bytes: Uint8Array) => number): void {
    this.#use = use;
    this.#giveOut();
  }

  #giveOut(): void {
    if (this.#use !== undefined && this.#end > this.#start) this.#start += this.#use(this.#buffer.subarray(this.#start, this.#end));
  }

  /** Where the next bytes go, until this is asked again. No room is left if nobody uses what there is: the socket fails then. */
  #room(): Uint8Array {
    if (this.#start === this.#end) this.#start = this.#end = 0;
    if (this.#end + READ_BYTES > BUFFER_BYTES) {
      this.#buffer.copyWithin(0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
    }
    return this.#buffer.subarray(this.#end, this.#end + READ_BYTES);
  }
}
