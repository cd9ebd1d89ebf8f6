/**
 * The end of a connection, whenever it was.
 */
import type { Duplex } from "node:stream";

/** Acts once when the stream is closed: at once if it is already, since what happened before is told to nobody who comes later. */
export function whenClosed(stream: Duplex, act: () => void): void {
  if (stream.closed) act();
  else stream.once("close", act);
}
