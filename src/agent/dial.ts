/**
 * TLS connections to other agents' one port: to a member of the cluster, known by its certificate, or to a joining host, known by
 * the fingerprint in its token.
 */
import { checkServerIdentity, connect, type ConnectionOptions, type TLSSocket } from "node:tls";
import { DmigrateError, messageOf } from "../core/errors.ts";
import { parsePeerAddress } from "./address.ts";
import { causesOf, reasonOf } from "./causes.ts";
import type { Member, Membership } from "./cluster.ts";
import type { Inlet } from "./inlet.ts";
import { fingerprint } from "./pki.ts";
import { TLS } from "./tls.ts";

/** The port's two protocols, told apart by ALPN: calls, and channels (src/wire/hello.ts). */
export const ALPN = { calls: "h2", channels: "dmigrate/1" } as const;

/** How long a host may take to accept a connection. Its kernel does that, however busy its agent is. */
const CONNECT_TIMEOUT_MS = 5_000;
/** How long its agent may then take for the handshake: about as long as one may be silent in a call (peers.ts). */
const HANDSHAKE_TIMEOUT_MS = 10_000;
/** How long a connection may be silent before the kernel asks whether the peer still lives. */
export const KEEP_ALIVE_MS = 10_000;
/** Code of the error when a certificate of our authority is not the one the cluster knows the member by. */
const NOT_OF_MEMBER = "CERT_NOT_OF_MEMBER";
/** Codes of Node's errors about a certificate, https://nodejs.org/api/tls.html#x509-certificate-error-codes, and ours. */
const UNTRUSTED = /^(CERT_|UNABLE_TO_|DEPTH_ZERO_|SELF_SIGNED_|ERR_TLS_CERT_)/;

/**
 * Begins to connect to a member. The socket fails unless the peer shows the certificate that the cluster knows.
 * @param inlet receives in its buffer; nobody reads from the socket then
 */
export function dialMember({ keys }: Membership, { name, address, fingerprint: known }: Member, alpn: string, inlet?: Inlet): TLSSocket {
  return dial(address, {
    ...(inlet === undefined ? {} : { onread: inlet.onread }),
    ca: keys.authority,
    cert: keys.host.certificate,
    key: keys.host.key,
    servername: name,
    ALPNProtocols: [alpn],
    checkServerIdentity: (host, certificate) => {
      const mismatch = checkServerIdentity(host, certificate);
      if (mismatch !== undefined || fingerprint(certificate.raw) === known) return mismatch;
      return Object.assign(new Error(`It is not the certificate that host ${name} was added with`), { code: NOT_OF_MEMBER });
    },
  });
}

/** Connects to a joining host. Throws PEER_UNREACHABLE, or PEER_REFUSED if its certificate is not the one with that fingerprint. */
export async function dialPinned(address: string, pinned: string): Promise<TLSSocket> {
  // The authority is the token: the fingerprint is compared before anything is sent.
  const socket = dial(address, { rejectUnauthorized: false, ALPNProtocols: [ALPN.calls] });
  try {
    await connected(socket);
  } catch (error) {
    throw new DmigrateError(
      "PEER_UNREACHABLE",
      `No agent answers at ${address}: ${messageOf(error)}; start it there with \`dmigrate agent\``,
      error,
    );
  }
  const certificate = socket.getPeerX509Certificate();
  if (certificate !== undefined && fingerprint(certificate) === pinned) return socket;
  socket.destroy();
  throw new DmigrateError(
    "PEER_REFUSED",
    `The agent at ${address} is not the one that made this token, or the token has been used; ` +
      "copy the one that `dmigrate status` shows there now",
  );
}

/** Waits for the TLS handshake; throws what the socket failed with. */
export async function connected(socket: TLSSocket): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    socket.once("secureConnect", resolve);
    socket.once("error", reject);
    socket.once("close", () => reject(new Error("the connection was closed")));
  });
}

/** The error for a call or a channel that ended because the connection to a member failed. */
export function connectionLost({ name, address }: Pick<Member, "name" | "address">, error: unknown): DmigrateError {
  const untrusted = causesOf(error).find((cause) => "code" in cause && UNTRUSTED.test(String(cause.code)));
  if (untrusted !== undefined) {
    return new DmigrateError(
      "PEER_REFUSED",
      `The agent at ${address} is not host ${name} of this cluster: ${untrusted.message}; if it was set up anew, remove and add it again`,
      error,
    );
  }
  return new DmigrateError(
    "PEER_UNREACHABLE",
    `Host ${name} does not answer at ${address}: ${reasonOf(error)}; check its agent and the network between the hosts`,
    error,
  );
}

function dial(address: string, options: ConnectionOptions): TLSSocket {
  const socket = connect({ ...parsePeerAddress(address), ...TLS, ...options });
  socket.setNoDelay(true);
  socket.setKeepAlive(true, KEEP_ALIVE_MS);
  void giveUpInTime(socket);
  return socket;
}

async function giveUpInTime(socket: TLSSocket): Promise<void> {
  if (await passesBefore(socket, "connect", CONNECT_TIMEOUT_MS)) {
    if (await passesBefore(socket, "secureConnect", HANDSHAKE_TIMEOUT_MS)) return;
    socket.destroy(new Error(`it accepts connections, but its agent says nothing within ${HANDSHAKE_TIMEOUT_MS / 1000} s`));
  } else {
    socket.destroy(new Error(`no connection within ${CONNECT_TIMEOUT_MS / 1000} s`));
  }
}

/** Whether an event of the socket, or its end, comes in time. If we are late ourselves, what came meanwhile counts. */
async function passesBefore(socket: TLSSocket, event: string, timeoutMs: number): Promise<boolean> {
  return await new Promise((resolve) => {
    if (socket.destroyed) return resolve(true);
    const timer = setTimeout(() => setImmediate(resolve, false), timeoutMs);
    for (const each of [event, "close"]) {
      socket.once(each, () => {
        clearTimeout(timer);
        resolve(true);
      });
    }
  });
}
