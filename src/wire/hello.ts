/**
 * The hello: the first bytes on a connection, sent by the side that opens it, and what answers it. Pure: bytes in, plain data out.
 *
 *     offset  bytes  content
 *          0      4  magic "DMIG"
 *          4      2  protocol version, big-endian
 *          6      2  length of the offer, big-endian
 *          8         the offer: JSON { migration, trunk, connection, connections, packing }
 *
 *     the answer
 *          0      1  kind: 2 accepted, 3 refused
 *          1      3  length, big-endian
 *          4         JSON: { connections, packing }, or { code, message }
 *
 * Magic, version and the form of an answer stay as they are in every version, so that two agents of different releases can always tell each
 * other why they do not understand one another. A connection is one of a trunk's, which everything of a migration shares: `connections` is
 * how many who dials would like that to have; the answer to the first says how many it gets. `packing` is what who dials can pack and
 * unpack, and in the answer what may be used.
 */
import { z } from "zod";
import { DmigrateError } from "../core/errors.ts";
import { migrationId, type MigrationId } from "../core/ids.ts";
import { decodeFailure, encodeFailure, SAME_RELEASE } from "./failure.ts";

/** The version of the protocol on these connections, that is of this hello and of what follows it (frames.ts, trunk-frames.ts). */
const VERSION = 6;
/** Bytes before the offer; they tell how many follow. */
export const HELLO_PREFIX_BYTES = 8;
/** Bytes before what an answer says; they tell how many follow. */
export const ANSWER_PREFIX_BYTES = 4;
/** The most connections that a trunk has. */
export const CONNECTIONS_MAX = 8;

const MAGIC = 0x44_4d_49_47; // "DMIG"
const OFFER_BYTES_MAX = 1024;
const ANSWER_BYTES_MAX = 0xff_ff;
const ACCEPTED = 2;
const REFUSED = 3;

/** One of a trunk's connections. */
export interface Offer {
  readonly migration: MigrationId;
  /** Which trunk of that migration the connection is for: 32 hexadecimal digits of its opener's choice. */
  readonly trunk: string;
  /** Which connection of the trunk it is, from 0. */
  readonly connection: number;
  readonly connections: number;
  readonly packing: PackingKind;
}

/** How payloads may be packed. */
const PACKINGS = ["zstd", "none"] as const;
export type PackingKind = (typeof PACKINGS)[number];

const OfferJson = z
  .strictObject({
    migration: z.string().transform((text) => migrationId(text)),
    trunk: z.string().regex(/^[0-9a-f]{32}$/),
    connection: z.int().min(0),
    connections: z.int().min(1).max(CONNECTIONS_MAX),
    packing: z.enum(PACKINGS),
  })
  .refine(({ connection, connections }) => connection < connections);

const AcceptanceJson = z.object({ connections: z.int().min(1).max(CONNECTIONS_MAX), packing: z.enum(PACKINGS) });
export type Acceptance = z.infer<typeof AcceptanceJson>;

export function encodeHello(offer: Offer): Uint8Array {
  const json = new TextEncoder().encode(JSON.stringify(offer));
  const bytes = new Uint8Array(HELLO_PREFIX_BYTES + json.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC);
  view.setUint16(4, VERSION);
  view.setUint16(6, json.length);
  bytes.set(json, HELLO_PREFIX_BYTES);
  return bytes;
}

/** Reads the first `HELLO_PREFIX_BYTES`; returns how many follow. Throws PROTOCOL if they are not ours, or of another version. */
export function decodeHelloPrefix(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0) !== MAGIC)
    throw new DmigrateError("PROTOCOL", "The connection does not begin with a hello of Dmigrate; only agents may use this port");
  const version = view.getUint16(4);
  if (version !== VERSION) {
    throw new DmigrateError("PROTOCOL", `Channel protocol ${version} was offered, protocol ${VERSION} is spoken; ${SAME_RELEASE}`);
  }
  const offerBytes = view.getUint16(6);
  if (offerBytes > OFFER_BYTES_MAX) throw new DmigrateError("PROTOCOL", `An offer of ${offerBytes} bytes is none; ${SAME_RELEASE}`);
  return offerBytes;
}

/** Reads the offer that follows a prefix. Throws PROTOCOL if it is none. */
export function decodeOffer(bytes: Uint8Array): Offer {
  return parsed(bytes, OfferJson, "offer");
}

export function encodeAcceptance(acceptance: Acceptance): Uint8Array {
  return answer(ACCEPTED, new TextEncoder().encode(JSON.stringify(acceptance)));
}

export function encodeRefusal(reason: DmigrateError): Uint8Array {
  return answer(REFUSED, encodeFailure(reason, ANSWER_BYTES_MAX));
}

function answer(kind: number, json: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(ANSWER_PREFIX_BYTES + json.length);
  new DataView(bytes.buffer).setUint32(0, kind * 2 ** 24 + json.length);
  bytes.set(json, ANSWER_PREFIX_BYTES);
  return bytes;
}

/** Reads the first `ANSWER_PREFIX_BYTES`; returns how many follow, and what reads those: that throws what the hello was refused with. */
export function decodeAnswerPrefix(bytes: Uint8Array): { readonly byteCount: number; readonly read: (json: Uint8Array) => Acceptance } {
  const word = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(0);
  const [kind, byteCount] = [word >>> 24, word & 0xff_ff_ff];
  if ((kind !== ACCEPTED && kind !== REFUSED) || byteCount > ANSWER_BYTES_MAX)
    throw new DmigrateError("PROTOCOL", `The peer did not answer a hello; ${SAME_RELEASE}`);
  return {
    byteCount,
    read: (json) => {
      if (kind === REFUSED) throw decodeFailure(json);
      return parsed(json, AcceptanceJson, "answer to a hello");
    },
  };
}

function parsed<T>(bytes: Uint8Array, schema: z.ZodType<T>, what: string): T {
  try {
    return schema.parse(JSON.parse(new TextDecoder().decode(bytes)));
  } catch (error) {
    throw new DmigrateError("PROTOCOL", `Malformed ${what}; ${SAME_RELEASE}`, error);
  }
}
