/**
 * Whether somebody serves a Unix socket.
 */
import { once } from "node:events";
import { createConnection } from "node:net";

/** True if somebody answers there; a socket that a dead process left does not. */
export async function isServed(address: string): Promise<boolean> {
  const socket = createConnection(address);
  try {
    await once(socket, "connect");
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}
