/**
 * The hello: the first bytes on a channel, sent by the side that opened it. Pure: bytes in, plain data out.
 *
 *     offset  bytes  content
 *          0      4  magic "DMIG"
 *          4      2  protocol version, big-endian
 *          6      1  length of the migration's id
 *          7      1  length of the channel's name
 *          8         the migration's id, then the channel's name, both ASCII
 *
 * Magic, version and the frame that answers (src/wire/frames.ts) stay as they are in every version, so that two agents of
 * different releases can always tell each other why they do not understand one another.
 */
import { DmigrateError } from "../core/errors.ts";
import { migrationId, type MigrationId } from "../core/ids.ts";
import { SAME_RELEASE } from "./failure.ts";

/** The version of the protocol on channels, that is of this hello and of the frames after it. */
export const CHANNEL_VERSION = 1;

/** Bytes before the names; they tell how many follow. */
export const HELLO_PREFIX_BYTES = 8;

const MAGIC = 0x44_4d_49_47; // "DMIG"
const CHANNEL_NAME = /^[a-z0-9][a-z0-9./-]{0,63}$/;

export interface Hello {
  readonly migration: MigrationId;
  /** Names the channel within its migration: 1 to 64 of `a-z`, `0-9`, `-`, `.`, `/`, the first a letter or digit. */
  readonly channel: string;
}

/** Lengths of the names, out of a hello's prefix. */
export interface HelloPrefix {
  readonly idBytes: number;
  readonly channelBytes: number;
}

/** Throws INTERNAL if the channel's name is none. */
export function encodeHello({ migration, channel }: Hello): Uint8Array {
  if (!CHANNEL_NAME.test(channel))
    throw new DmigrateError("INTERNAL", `${JSON.stringify(channel)} is no channel name; please report this as a bug`);
  const names = new TextEncoder().encode(migration + channel);
  const bytes = new Uint8Array(HELLO_PREFIX_BYTES + names.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC);
  view.setUint16(4, CHANNEL_VERSION);
  view.setUint8(6, migration.length);
  view.setUint8(7, channel.length);
  bytes.set(names, HELLO_PREFIX_BYTES);
  return bytes;
}

/** Reads the first `HELLO_PREFIX_BYTES`. Throws PROTOCOL if they are not ours, or of another version. */
export function decodeHelloPrefix(bytes: Uint8Array): HelloPrefix {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0) !== MAGIC)
    throw new DmigrateError("PROTOCOL", "The connection does not begin with a hello of Dmigrate; only agents may use this port");
  const version = view.getUint16(4);
  if (version !== CHANNEL_VERSION) {
    throw new DmigrateError("PROTOCOL", `Channel protocol ${version} was offered, protocol ${CHANNEL_VERSION} is spoken; ${SAME_RELEASE}`);
  }
  return { idBytes: view.getUint8(6), channelBytes: view.getUint8(7) };
}

/** Reads the names that follow a prefix. Throws PROTOCOL if one is malformed. */
export function decodeHelloNames({ idBytes }: HelloPrefix, bytes: Uint8Array): Hello {
  const text = String.fromCharCode(...bytes);
  const channel = text.slice(idBytes);
  if (!CHANNEL_NAME.test(channel))
    throw new DmigrateError("PROTOCOL", `Malformed channel name ${JSON.stringify(channel)}; ${SAME_RELEASE}`);
  try {
    return { migration: migrationId(text.slice(0, idBytes)), channel };
  } catch (error) {
    throw new DmigrateError("PROTOCOL", `Malformed migration id in a hello; ${SAME_RELEASE}`, error);
  }
}
