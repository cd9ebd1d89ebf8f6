/**
 * Trunks between agents: dials their connections, and puts together those that arrive, each after a hello (src/wire/hello.ts).
 */
import { randomBytes } from "node:crypto";
import type { TLSSocket } from "node:tls";
import { DmigrateError } from "../core/errors.ts";
import type { HostName, MigrationId } from "../core/ids.ts";
import type { Lane } from "../core/schedule.ts";
import { limitUnsent } from "../kernel/tcp.ts";
import type { TrunkStream } from "../transfer/stream.ts";
import { Trunk } from "../transfer/trunk.ts";
import { SAME_RELEASE } from "../wire/failure.ts";
import { encodeAcceptance, type TrunkOffer } from "../wire/hello.ts";
import type { Cluster, Member } from "./cluster.ts";
import { openConnection, type Opened } from "./handshake.ts";

/** One is reserved for what somebody waits for; two share the rest, so that one that has lost a packet does not hold up all of it. */
const CONNECTIONS = 3;
/** What is written to a connection next is not behind more than this, and what is on its way. */
const UNSENT_BYTES_MAX = 128 << 10;
/** A trunk is idle for long, and its connections outlive a link that is cut for a while: as long as the kernel tries to send over one. */
const KEEP_ALIVE_MS = 900_000;

/** Serves a stream that a peer has opened; `peer` is undefined if it is no member any more. */
export type ServeStream = (stream: TrunkStream, migration: MigrationId, peer: HostName | undefined) => void;

/** A trunk that a peer has dialled. */
interface Arriving {
  readonly trunk: Trunk;
  readonly peer: HostName;
  readonly migration: MigrationId;
  /** Which of its connections are here. */
  readonly connections: Set<number>;
}

export class Trunks {
  readonly #cluster: Cluster;
  readonly #serveStream: ServeStream;
  /** By the id that its opener gave it. */
  readonly #arriving = new Map<string, Arriving>();

  constructor(cluster: Cluster, serveStream: ServeStream) {
    this.#cluster = cluster;
    this.#serveStream = serveStream;
  }

  /** Dials a trunk for a migration. Throws PEER_UNREACHABLE, PROTOCOL, or what the peer refuses it with. */
  async dial(member: Member, migration: MigrationId): Promise<Trunk> {
    const id = randomBytes(16).toString("hex");
    const open = async (connection: number, connections: number): Promise<Opened> =>
      await openConnection(this.#cluster.membership, member, { migration, trunk: id, connection, connections });
    const first = await open(0, CONNECTIONS);
    const { connections } = first.acceptance;
    const others = await Promise.allSettled(Array.from({ length: connections - 1 }, (_, index) => open(index + 1, connections)));
    const sockets = [first, ...others.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []))].map(({ socket }) => socket);
    const failed = others.find((each) => each.status === "rejected");
    if (failed !== undefined) {
      for (const socket of sockets) socket.destroy();
      throw failed.reason;
    }
    const trunk = new Trunk((stream) => stream.refuse(new DmigrateError("PROTOCOL", `Only a source opens channels; ${SAME_RELEASE}`)));
    for (const [connection, socket] of sockets.entries()) {
      prepare(socket);
      trunk.join(socket, laneOf(connection, sockets.length));
    }
    return trunk;
  }

  /** Takes a connection that was offered for a trunk, by `peer`, into it. Throws PROTOCOL. */
  join(socket: TLSSocket, offer: TrunkOffer, peer: HostName): void {
    const arriving = this.#arrivingOf(offer, peer, socket);
    arriving.connections.add(offer.connection);
    prepare(socket);
    const connections = Math.min(offer.connections, CONNECTIONS);
    socket.write(encodeAcceptance({ connections }));
    arriving.trunk.join(socket, laneOf(offer.connection, connections));
  }

  /** The trunks for a migration that peers have dialled. */
  arrived(migration: MigrationId): Trunk[] {
    return [...this.#arriving.values()].filter((arriving) => arriving.migration === migration).map(({ trunk }) => trunk);
  }

  #arrivingOf({ trunk: id, migration, connection }: TrunkOffer, peer: HostName, socket: TLSSocket): Arriving {
    const known = this.#arriving.get(id);
    if (known === undefined && connection === 0) {
      const trunk = new Trunk((stream) => this.#serveStream(stream, migration, this.#cluster.peerOf(socket)));
      const arriving = { trunk, peer, migration, connections: new Set<number>() };
      this.#arriving.set(id, arriving);
      void trunk.over.then(() => this.#arriving.delete(id));
      return arriving;
    }
    if (known?.peer === peer && known.migration === migration && !known.connections.has(connection)) return known;
    throw new DmigrateError("PROTOCOL", `Connection ${connection} of a trunk that is not known, or has it already; ${SAME_RELEASE}`);
  }
}

function prepare(socket: TLSSocket): void {
  socket.setKeepAlive(true, KEEP_ALIVE_MS);
  limitUnsent(socket, UNSENT_BYTES_MAX);
}

function laneOf(connection: number, connections: number): Lane {
  return connection === 0 && connections > 1 ? "reserved" : "shared";
}
