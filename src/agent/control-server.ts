/**
 * The unix socket at which an agent serves its own users: only root can open it.
 */
import { once } from "node:events";
import { rmSync } from "node:fs";
import { createServer, type Http2ServerRequest, type Http2ServerResponse, type ServerHttp2Session } from "node:http2";
import { DmigrateError, messageOf } from "../core/errors.ts";
import { closeSessions } from "./farewell.ts";
import { isServed } from "./served.ts";

/** Serves calls at `path` until disposed of; then every connection is cut. Throws AGENT if another agent does, or if it cannot. */
export async function serveControl(
  path: string,
  calls: (request: Http2ServerRequest, response: Http2ServerResponse) => void,
): Promise<AsyncDisposable> {
  if (await isServed(path))
    throw new DmigrateError("AGENT", `Another agent answers at ${path}; stop it, or give this one its own --run-dir`);
  rmSync(path, { force: true });
  const server = createServer(calls);
  const sessions = new Set<ServerHttp2Session>();
  server.on("session", (session) => {
    sessions.add(session);
    session.once("close", () => sessions.delete(session));
  });
  const umask = process.umask(0o177); // the socket is made by listen(), with mode 0600 from its first moment
  try {
    server.listen(path);
  } finally {
    process.umask(umask);
  }
  try {
    await once(server, "listening");
  } catch (error) {
    throw new DmigrateError("AGENT", `Cannot serve at ${path}: ${messageOf(error)}; see that its directory can be written`, error);
  }
  return {
    async [Symbol.asyncDispose]() {
      const closed = once(server, "close");
      server.close();
      await closeSessions(sessions);
      await closed;
    },
  };
}
