/**
 * The hellos of a connection for channels (src/wire/hello.ts), on a TLS socket: as the side that opens it, and as the one that answers.
 */
import { once } from "node:events";
import type { TLSSocket } from "node:tls";
import { DmigrateError, toldBy } from "../core/errors.ts";
import {
  ANSWER_PREFIX_BYTES,
  decodeAnswerPrefix,
  decodeHelloPrefix,
  decodeOffer,
  encodeHello,
  encodeRefusal,
  HELLO_PREFIX_BYTES,
  type Acceptance,
  type Offer,
} from "../wire/hello.ts";
import type { Member, Membership } from "./cluster.ts";
import { ALPN, connected, connectionLost, dialMember } from "./dial.ts";
import { Inlet } from "./inlet.ts";

const HELLO_TIMEOUT_MS = 10_000;

/** A connection that its peer has accepted. Nothing was read of it beyond the answer. */
export interface Opened {
  readonly socket: TLSSocket;
  readonly inlet: Inlet;
  readonly acceptance: Acceptance;
}

/** Opens a connection. Throws PEER_UNREACHABLE, PROTOCOL, or what the peer refuses it with. */
export async function openConnection(membership: Membership, member: Member, offer: Offer): Promise<Opened> {
  const inlet = new Inlet();
  const socket = dialMember(membership, member, ALPN.channels, inlet);
  socket.resume(); // or its end is not seen
  try {
    await connected(socket);
    socket.write(encodeHello(offer));
    return { socket, inlet, acceptance: await readAnswer(socket, inlet, member) };
  } catch (error) {
    socket.destroy();
    throw error instanceof DmigrateError ? error : connectionLost(member, error);
  }
}

/** Reads what a connection of the listener is for. */
export async function readOffer(socket: TLSSocket): Promise<Offer> {
  return await inTime(socket, async () =>
    decodeOffer(await readExactly(socket, decodeHelloPrefix(await readExactly(socket, HELLO_PREFIX_BYTES)))),
  );
}

/** Answers a connection that is not served with the reason, and ends it. */
export function refuse(socket: TLSSocket, reason: DmigrateError): void {
  socket.end(encodeRefusal(reason), () => socket.destroy());
}

/** Reads what answers a hello, and not a byte more. Throws what the peer refused it with. */
async function readAnswer(socket: TLSSocket, inlet: Inlet, { name }: Member): Promise<Acceptance> {
  const closed = once(socket, "close").then(() => {
    throw socket.errored ?? new Error("the connection was closed in the hello");
  });
  closed.catch(() => {}); // told to who still waits
  const next = async (byteCount: number): Promise<Uint8Array> => await Promise.race([inlet.read(byteCount), closed]);
  return await inTime(socket, async () => {
    const { byteCount, read } = decodeAnswerPrefix(await next(ANSWER_PREFIX_BYTES));
    const json = await next(byteCount);
    try {
      return read(json);
    } catch (error) {
      throw toldBy(name, DmigrateError.from(error));
    }
  });
}

/** Does an exchange of hellos; destroys the socket if it takes too long. */
async function inTime<T>(socket: TLSSocket, exchange: () => Promise<T>): Promise<T> {
  const timer = setTimeout(() => socket.destroy(new Error(`no hello within ${HELLO_TIMEOUT_MS / 1000} s`)), HELLO_TIMEOUT_MS);
  try {
    return await exchange();
  } finally {
    clearTimeout(timer);
  }
}

/** Reads that many bytes and leaves the rest in the socket. Throws if the connection ends before. */
async function readExactly(socket: TLSSocket, byteCount: number): Promise<Uint8Array> {
  for (;;) {
    const bytes = socket.read(byteCount) as Buffer | null; // sockets without an encoding give buffers
    if (bytes !== null && bytes.length === byteCount) return bytes;
    if (bytes !== null || socket.readableEnded || socket.destroyed)
      throw socket.errored ?? new Error("the connection was closed in the hello");
    await new Promise<void>((resolve) => {
      const events = ["readable", "end", "close"];
      const woken = (): void => {
        for (const event of events) socket.off(event, woken);
        resolve();
      };
      for (const event of events) socket.on(event, woken);
    });
  }
}
