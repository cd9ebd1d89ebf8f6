/**
 * Connect RPC over a connection that its caller makes: a unix socket, or TLS that trusts whom it should.
 */
import { subscribe } from "node:diagnostics_channel";
import type { ClientHttp2Session, ClientHttp2Stream } from "node:http2";
import type { Duplex } from "node:stream";
import type { Transport } from "@connectrpc/connect";
import { createConnectTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { tellVersion } from "./version.ts";

export interface CallsTransport extends Disposable {
  readonly transport: Transport;
}

/**
 * A session that gives up on a silent peer emits its error after connect-node has taken its listeners away, and an error without a
 * listener would end the agent. The calls have been told by then.
 */
const heard = new WeakSet<ClientHttp2Session>();
subscribe("http2.client.stream.created", (message) => {
  const { session } = (message as { readonly stream: ClientHttp2Stream }).stream; // as node:http2 documents this channel
  if (session === undefined || heard.has(session as ClientHttp2Session)) return;
  heard.add(session as ClientHttp2Session); // a client's stream has a client's session
  session.on("error", () => {});
});

/**
 * Calls over what `connect` connects to, again whenever there is no connection. Disposing of it cuts it, and the calls under way.
 * @param signOfLifeMs while calls are open, and a peer is silent for this long, it is asked for a sign of life and has as long again
 */
export function callsOver(connect: () => Duplex, signOfLifeMs?: number): CallsTransport {
  const baseUrl = "https://agent"; // a name for the protocol's headers: `connect` alone knows where the agent is
  const pings = signOfLifeMs === undefined ? {} : { pingIntervalMs: signOfLifeMs, pingTimeoutMs: signOfLifeMs };
  let connection: Duplex | undefined;
  const createConnection = (): Duplex => {
    connection = connect();
    return connection;
  };
  const sessionManager = new Http2SessionManager(baseUrl, pings, { createConnection });
  return {
    transport: createConnectTransport({ baseUrl, httpVersion: "2", sessionManager, acceptCompression: [], interceptors: [tellVersion] }),
    // Not sessionManager.abort(): the error of a session that is just ending would then find no listener.
    [Symbol.dispose]: () => void connection?.destroy(),
  };
}
