/**
 * Who builds a lab: one command at a time for each name, or they would remove what the other has built so far.
 */
import { once } from "node:events";
import { createServer } from "node:net";
import { isServed } from "../src/agent/served.ts";
import { DmigrateError } from "../src/core/errors.ts";

/** Sees to it that nobody else builds a lab of that name; its claim ends with this process at the latest. Throws LAB if somebody does. */
export async function claimSite(name: string): Promise<AsyncDisposable> {
  const server = createServer();
  server.listen(siteAddress(name));
  try {
    await once(server, "listening");
  } catch (error) {
    throw new DmigrateError("LAB", `Another command builds lab ${name} just now; wait for it, or give this one another --name`, error);
  }
  server.unref();
  return server;
}

/** Whether somebody builds a lab of that name just now. */
export function isSiteClaimed(name: string): Promise<boolean> {
  return isServed(siteAddress(name));
}

/** A Unix socket's address without a file (unix(7)): it is free again when nobody listens. */
function siteAddress(name: string): string {
  return `\0dmigrate-lab-${name}`;
}
