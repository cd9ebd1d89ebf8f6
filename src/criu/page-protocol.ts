/**
 * CRIU's page protocol, as much of it as a tunnel needs to count pages: the requests of `criu lazy-pages`.
 *
 * Pure: bytes in, plain data out. A request is 32 bytes in host order: u32 command (low 16 bits; flags above), 4 bytes of padding,
 * u64 page count, u64 address, u64 process (CRIU page-xfer.c, struct page_server_iov).
 */

const REQUEST_BYTES = 32;
const COMMAND_GET = 7;

/** What a client asked for so far. */
export interface RequestCounts {
  /** Pages asked for one at a time: CRIU does so when a task touches one. */
  readonly demanded: number;
  /** Pages asked for in ranges, in the background. */
  readonly pushed: number;
}

/** Counts the pages in a stream of requests, however it is cut into chunks. */
export class RequestCounter {
  #rest: Buffer = Buffer.alloc(0);
  #demanded = 0;
  #pushed = 0;

  get counts(): RequestCounts {
    return { demanded: this.#demanded, pushed: this.#pushed };
  }

  /** Takes the next bytes of the stream. */
  take(chunk: Uint8Array): void {
    let bytes =
      this.#rest.length === 0 ? Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength) : Buffer.concat([this.#rest, chunk]);
    for (; bytes.length >= REQUEST_BYTES; bytes = bytes.subarray(REQUEST_BYTES)) this.#count(bytes);
    this.#rest = Buffer.from(bytes);
  }

  #count(request: Buffer): void {
    if ((request.readUInt32LE(0) & 0xffff) !== COMMAND_GET) return;
    const pageCount = Number(request.readBigUInt64LE(8));
    if (pageCount === 1) this.#demanded += 1;
    else this.#pushed += pageCount;
  }
}
