/**
 * The source's end of the page plane: joins the channel with CRIU's page server, which believes that its client is local.
 */
import { once } from "node:events";
import { connect } from "node:net";
import { finished, type Duplex } from "node:stream";

const BUFFER_BYTES = 1 << 17;
/** So much is read ahead of the channel. */
const BUFFER_COUNT = 8;

/**
 * Joins `channel` with the page server at `port` of the loopback interface. What one side ends or loses, the other ends or loses.
 * @param seenPages is given every chunk that goes to the target; the chunk is reused afterwards
 */
export async function openExit(channel: Duplex, port: number, seenPages: (chunk: Uint8Array) => void): Promise<void> {
  // A few buffers that are used again and again: a new one for each chunk would keep the garbage collector busier than all else.
  const free: Uint8Array[] = [];
  let usedCount = 0;
  const nextBuffer = (): Uint8Array => free.pop() ?? Buffer.allocUnsafeSlow(BUFFER_BYTES);
  const forward = (length: number, buffer: Uint8Array): boolean => {
    const chunk = buffer.subarray(0, length);
    seenPages(chunk);
    usedCount += 1;
    channel.write(chunk, () => {
      usedCount -= 1;
      free.push(buffer);
      server.resume();
    });
    return usedCount < BUFFER_COUNT; // false pauses the server
  };
  const server = connect({ host: "127.0.0.1", port, noDelay: true, onread: { buffer: nextBuffer, callback: forward } });
  await once(server, "connect");
  channel.pipe(server);
  finished(server, () => channel.destroy());
  finished(channel, () => server.destroy());
}
