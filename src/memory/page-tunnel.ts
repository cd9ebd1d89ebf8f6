/**
 * The tunnel between `criu lazy-pages` on the target and CRIU's page server on the source: both believe that the other is
 * local, and between them the pages travel through the hosts' encrypted channel.
 */
import { connect, createServer, type Socket } from "node:net";
import { once } from "node:events";
import { pipeline } from "node:stream/promises";
import { Transform, type Duplex } from "node:stream";
import { DmigrateError } from "../core/errors.ts";

/** The target's end: a port on the loopback interface that one client may connect to. */
export interface TunnelEntrance extends Disposable {
  readonly port: number;
}

/**
 * Opens the target's end. The first client to connect is joined with `channel`; the port is closed then.
 * @param seenRequests is given every chunk that goes to the source
 */
export async function openEntrance(channel: Duplex, seenRequests: (chunk: Uint8Array) => void): Promise<TunnelEntrance> {
  const server = createServer({ noDelay: true });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  server.once("connection", (client) => {
    server.close();
    join(client, channel, seenRequests, () => {});
  });
  const address = server.address();
  if (address === null || typeof address === "string") throw new DmigrateError("INTERNAL", "A TCP server has no port");
  return {
    port: address.port,
    [Symbol.dispose]: () => {
      server.close();
      channel.destroy();
    },
  };
}

/**
 * Joins the source's end with CRIU's page server at `port` of the loopback interface.
 * @param seenPages is given every chunk that goes to the target
 */
export async function openExit(channel: Duplex, port: number, seenPages: (chunk: Uint8Array) => void): Promise<void> {
  const server = connect({ host: "127.0.0.1", port, noDelay: true });
  await once(server, "connect");
  join(server, channel, seenPages, () => {});
}

/** What one side ends or loses, the other side ends or loses: CRIU on either side notices by itself. */
function join(local: Socket, channel: Duplex, seenOut: (chunk: Uint8Array) => void, seenIn: (chunk: Uint8Array) => void): void {
  const lost = (): void => {
    local.destroy();
    channel.destroy();
  };
  pipeline(local, tap(seenOut), channel).catch(lost);
  pipeline(channel, tap(seenIn), local).catch(lost);
}

function tap(seen: (chunk: Uint8Array) => void): Transform {
  return new Transform({
    transform(chunk: Uint8Array, _encoding, done) {
      seen(chunk);
      done(null, chunk);
    },
  });
}
