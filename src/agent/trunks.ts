/**
 * Trunks between agents: dials their connections, and puts together those that arrive, each after a hello (src/wire/hello.ts).
 *
 * The target dials, because most of what crosses goes to it, and a connection that Node has dialled can receive in a buffer that is used
 * again and again (inlet.ts).
 */
import { randomBytes } from "node:crypto";
import type { TLSSocket } from "node:tls";
import { DmigrateError } from "../core/errors.ts";
import type { DumpPlan } from "../core/dump-plan.ts";
import type { HostName, MigrationId } from "../core/ids.ts";
import type { Lane, TransferOrder } from "../core/schedule.ts";
import { limitUnsent } from "../kernel/tcp.ts";
import { PACKING } from "../transfer/packer.ts";
import { Trunk } from "../transfer/trunk.ts";
import { SAME_RELEASE } from "../wire/failure.ts";
import { encodeAcceptance, type Offer } from "../wire/hello.ts";
import type { Member, Membership } from "./cluster.ts";
import { openConnection, type Opened } from "./handshake.ts";

/** One is reserved for what somebody waits for; two share the rest, so that one that has lost a packet does not hold up all of it. */
const CONNECTIONS = 3;
/** What is written to a connection next is not behind more than this, and what is on its way. */
export const UNSENT_BYTES_MAX: number = 128 << 10;
/** A trunk is idle for long, and its connections outlive a link that is cut for a while: as long as the kernel tries to send over one. */
const KEEP_ALIVE_MS = 900_000;
/** A connection that is watched is tried when it has been idle for so long; Node gives it up after ten tries, a second apart. */
const WATCH_MS = 1_000;

/**
 * Dials the connections of a trunk for a migration. Throws PEER_UNREACHABLE, PROTOCOL, or what the peer refuses it with.
 * @returns has the loss of one noticed soon, though nothing is sent by it
 */
export async function dialTrunk(trunk: Trunk, membership: Membership, member: Member, migration: MigrationId): Promise<() => void> {
  const id = randomBytes(16).toString("hex");
  const open = async (connection: number, connections: number): Promise<Opened> =>
    await openConnection(membership, member, { migration, trunk: id, connection, connections, packing: PACKING });
  const first = await open(0, CONNECTIONS);
  const { connections, packing } = first.acceptance;
  const others = await Promise.allSettled(Array.from({ length: connections - 1 }, (_, index) => open(index + 1, connections)));
  const opened = [first, ...others.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []))];
  const failed = others.find((each) => each.status === "rejected");
  if (failed !== undefined) {
    for (const { socket } of opened) socket.destroy();
    throw failed.reason;
  }
  if (packing !== "none") trunk.mayPack();
  for (const [connection, { socket, inlet }] of opened.entries()) {
    prepare(socket);
    trunk.join(socket, laneOf(connection, opened.length), (use) => inlet.receive(use));
  }
  return () => {
    for (const { socket } of opened) socket.setKeepAlive(true, WATCH_MS);
  };
}

/** How many connections a source wants, and whether it has time to compress, as of now. */
export type TrunkPlan = () => Pick<DumpPlan, "connections" | "compression">;

/** A trunk that a peer has dialled. */
interface Arriving {
  readonly trunk: Trunk;
  readonly peer: HostName;
  readonly migration: MigrationId;
  /** How many connections it gets. */
  readonly connectionCount: number;
  /** Which of them are here. */
  readonly connections: Set<number>;
}

/** The trunks that peers dial. */
export class ArrivingTrunks {
  readonly #order: TransferOrder;
  /** By the id that who dialled it gave it. */
  readonly #trunks = new Map<string, Arriving>();

  constructor(order: TransferOrder) {
    this.#order = order;
  }

  /** Takes a connection that was offered for a trunk, by `peer`, into it; returns the trunk. Throws PROTOCOL. */
  join(socket: TLSSocket, offer: Offer, peer: HostName, plan?: TrunkPlan): Trunk {
    const { trunk, connections, connectionCount } = this.#trunkOf(offer, peer, plan);
    connections.add(offer.connection);
    prepare(socket);
    const packing = offer.packing === PACKING ? PACKING : "none";
    socket.write(encodeAcceptance({ connections: connectionCount, packing }));
    if (packing !== "none" && offer.connection === 0) trunk.mayPack(() => plan?.().compression !== "none");
    trunk.join(socket, laneOf(offer.connection, connectionCount));
    return trunk;
  }

  #trunkOf({ trunk: id, migration, connection, connections }: Offer, peer: HostName, plan?: TrunkPlan): Arriving {
    const known = this.#trunks.get(id);
    if (known === undefined && connection === 0) {
      const refusal = new DmigrateError("PROTOCOL", `Only a source opens channels; ${SAME_RELEASE}`);
      const trunk = new Trunk((stream) => stream.refuse(refusal), this.#order);
      const connectionCount = Math.min(connections, plan?.().connections ?? CONNECTIONS, CONNECTIONS);
      const arriving = { trunk, peer, migration, connectionCount, connections: new Set<number>() };
      this.#trunks.set(id, arriving);
      void trunk.over.then(() => this.#trunks.delete(id));
      return arriving;
    }
    const isOfIt = known?.peer === peer && known.migration === migration;
    if (isOfIt && connection < known.connectionCount && !known.connections.has(connection)) return known;
    throw new DmigrateError(
      "PROTOCOL",
      `Connection ${connection} of a trunk that is not known, has it already, or gets none such; ${SAME_RELEASE}`,
    );
  }
}

function prepare(socket: TLSSocket): void {
  socket.setKeepAlive(true, KEEP_ALIVE_MS);
  limitUnsent(socket, UNSENT_BYTES_MAX);
}

function laneOf(connection: number, connections: number): Lane {
  return connection === 0 && connections > 1 ? "reserved" : "shared";
}
