/**
 * Who builds a lab, and which demo uses it: one command at a time for each name, or they would remove what the other has built.
 */
import { once } from "node:events";
import { createServer } from "node:net";
import { isServed } from "../src/agent/served.ts";
import { DmigrateError } from "../src/core/errors.ts";

/** Sees to it that nobody else builds a lab of that name; its claim ends with this process at the latest. Throws LAB if somebody does. */
export function claimSite(name: string): Promise<AsyncDisposable> {
  return claim(siteAddress(name), `Another command builds lab ${name}`);
}

/** The same for demos, from one's beginning to its end: each builds the lab anew, also if another is at work in it. */
export function claimDemo(name: string): Promise<AsyncDisposable> {
  return claim(`\0dmigrate-demo-${name}`, `Another demo uses lab ${name}`);
}

async function claim(address: string, otherwise: string): Promise<AsyncDisposable> {
  const server = createServer();
  server.listen(address);
  try {
    await once(server, "listening");
  } catch (error) {
    throw new DmigrateError("LAB", `${otherwise} just now; wait for it, or give this one another --name`, error);
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
