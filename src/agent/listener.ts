/**
 * The one port an agent listens at: TLS 1.3, with calls and channels told apart by ALPN. Its certificate follows the cluster's state
 * without a restart.
 */
import { once } from "node:events";
import { createServer as createHttp2Server, type Http2ServerRequest, type Http2ServerResponse, type ServerHttp2Session } from "node:http2";
import type { AddressInfo } from "node:net";
import { createServer, type SecureContextOptions, type TLSSocket } from "node:tls";
import type { Logger } from "pino";
import { DmigrateError, messageOf } from "../core/errors.ts";
import { formatAddress, type Address } from "./address.ts";
import type { Cluster } from "./cluster.ts";
import { closeSessions } from "./farewell.ts";
import { ALPN, KEEP_ALIVE_MS } from "./dial.ts";
import { TLS } from "./tls.ts";

const HANDSHAKE_TIMEOUT_MS = 10_000;
const CONNECTIONS_MAX = 512;

export interface ListenerHandlers {
  /** Serves calls. Whether the caller is a member is for it to ask, by `Cluster.peerOf`. */
  readonly calls: (request: Http2ServerRequest, response: Http2ServerResponse) => void;
  /** Serves a channel's connection, from its hello on; also to ask who is there. */
  readonly channel: (socket: TLSSocket) => void;
}

export interface Listener extends AsyncDisposable {
  /** Where it listens, host:port. */
  readonly address: string;
}

/** Listens until disposed of: calls under way may end, and who comes meanwhile is answered; then it cuts all. Throws AGENT if it cannot. */
export async function listen(at: Address, cluster: Cluster, handlers: ListenerHandlers, log: Logger): Promise<Listener> {
  const calls = createHttp2Server(handlers.calls);
  const sessions = new Set<ServerHttp2Session>();
  calls.on("session", (session) => {
    sessions.add(session);
    session.once("close", () => sessions.delete(session));
  });
  calls.on("sessionError", (error) => log.debug({ err: error }, "a connection for calls failed"));

  // Who shows no certificate is let through the handshake, since a joining host must answer a member that it cannot know yet.
  const server = createServer({
    ...secureContext(cluster),
    requestCert: true,
    rejectUnauthorized: false,
    ALPNProtocols: Object.values(ALPN),
    handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
    keepAlive: true, // a peer that is gone without a word would hold its channels, and what they write to, open for ever
    keepAliveInitialDelay: KEEP_ALIVE_MS,
  });
  server.maxConnections = CONNECTIONS_MAX;
  const sockets = new Set<TLSSocket>();
  server.on("secureConnection", (socket) => {
    socket.on("error", (error) => log.debug({ err: error, from: socket.remoteAddress }, "a connection failed"));
    if (cluster.state.kind === "member" && !socket.authorized) {
      log.warn(
        { from: socket.remoteAddress, reason: socket.authorizationError },
        "refused a connection without a certificate of this cluster",
      );
      socket.destroy();
      return;
    }
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    socket.setNoDelay(true);
    if (socket.alpnProtocol === ALPN.calls) calls.emit("connection", socket);
    else if (socket.alpnProtocol === ALPN.channels) handlers.channel(socket);
    else socket.destroy();
  });
  server.on("tlsClientError", (error, socket) => log.debug({ err: error, from: socket.remoteAddress }, "a TLS handshake failed"));

  const renew = (): void => server.setSecureContext(secureContext(cluster));
  cluster.on("changed", renew);
  try {
    server.listen(at);
    await once(server, "listening");
  } catch (error) {
    cluster.off("changed", renew);
    throw new DmigrateError(
      "AGENT",
      `Cannot listen at ${formatAddress(at)}: ${messageOf(error)}; choose another address with --listen`,
      error,
    );
  }

  return {
    address: formatAddress({ ...at, port: (server.address() as AddressInfo).port }), // it listens on TCP
    async [Symbol.asyncDispose]() {
      cluster.off("changed", renew);
      await closeSessions(sessions);
      const closed = once(server, "close");
      server.close();
      server.on("secureConnection", (socket) => socket.destroy()); // of a handshake that was under way
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

function secureContext({ state }: Cluster): SecureContextOptions {
  const { certificate, key } = state.kind === "member" ? state.keys.host : state.credentials;
  return { cert: certificate, key, ...TLS, ...(state.kind === "member" ? { ca: state.keys.authority } : {}) };
}
