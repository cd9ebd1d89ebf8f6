/**
 * The end of a server's HTTP/2 connections: what has been answered still arrives.
 */
import { once } from "node:events";
import type { ServerHttp2Session } from "node:http2";
import { setTimeout as sleep } from "node:timers/promises";

/** How long calls that are under way may take to end. */
const LIMIT_MS = 1000;

/** Closes them: calls under way may end, no new ones begin. Cuts them after a second. */
export async function closeSessions(sessions: Iterable<ServerHttp2Session>): Promise<void> {
  const open = [...sessions].filter((session) => !session.destroyed);
  const closed = open.map((session) => once(session, "close").catch(() => {})); // an error closes it, too
  for (const session of open) session.close();
  await Promise.race([Promise.all(closed), sleep(LIMIT_MS, undefined, { ref: false })]);
  for (const session of open) session.destroy();
}
