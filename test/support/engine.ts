/**
 * A Docker Engine played by a server that answers as a test says.
 */
import { once } from "node:events";
import http, { type RequestListener } from "node:http";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { temporaryDirectory } from "./hosts.ts";

/** Serves on a unix socket as long as the test lasts; returns the socket's path. */
export async function serveEngine(t: TestContext, answer: RequestListener): Promise<string> {
  const socket = join(temporaryDirectory(t), "docker.sock");
  const server = http.createServer(answer).listen(socket);
  await once(server, "listening");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return socket;
}
