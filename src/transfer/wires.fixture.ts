/**
 * Connections for tests, in memory.
 */
import { duplexPair, type Duplex } from "node:stream";

/**
 * Both ends of one, more like sockets than a plain pair of streams is: the memory of what was written may be used again once it is, and
 * one end does not outlive the other.
 */
export function wire(): [Duplex, Duplex] {
  const ends = duplexPair({ allowHalfOpen: false });
  for (const [end, other] of [ends, ends.toReversed() as [Duplex, Duplex]]) {
    end.once("close", () => setImmediate(() => other.destroy()));
    const push = end.push.bind(end);
    end.push = (chunk: Buffer | null) => push(chunk && Buffer.from(chunk));
  }
  return ends;
}
