/**
 * Netlink: requests made of attributes, and sockets that carry them to the kernel (netlink(7)).
 */
import { DmigrateError } from "../core/errors.ts";
import { kernelError } from "./libc.ts";
import { AF, int32, RawSocket } from "./socket.ts";

/** Netlink families, as in <linux/netlink.h>. */
export const NETLINK = { ROUTE: 0, NETFILTER: 12 } as const;
const SOL_NETLINK = 270;
const NETLINK_NO_ENOBUFS = 5;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const NLA_F_NESTED = 0x8000;
const NLM_F_DUMP = 0x300;
const NLMSG_ERROR = 2; // also an acknowledgement: i32 errno, negative, or 0
const NLMSG_DONE = 3;
const DATAGRAM_BYTES_MAX = 32 * 1024; // larger ones the kernel does not make (netlink_dump)
const ANSWERS_BYTES_MAX = 4 * 1024 * 1024; // one answer to each of several thousand requests
const HEADER_BYTES = 16; // struct nlmsghdr: u32 length; u16 type, flags; u32 sequence, port

/** One attribute: a string ends with NUL, a number is a big-endian u32 (as nfnetlink has them), an array holds nested attributes. */
export function attribute(type: number, value: string | number | Uint8Array | readonly Uint8Array[]): Uint8Array {
  const payload = attributePayload(value);
  const bytes = Buffer.alloc(4 + Math.ceil(payload.length / 4) * 4);
  bytes.writeUInt16LE(4 + payload.length, 0);
  bytes.writeUInt16LE(Array.isArray(value) ? type | NLA_F_NESTED : type, 2);
  bytes.set(payload, 4);
  return bytes;
}

function attributePayload(value: string | number | Uint8Array | readonly Uint8Array[]): Uint8Array {
  if (typeof value === "string") return Buffer.from(`${value}\0`);
  if (value instanceof Uint8Array) return value;
  if (typeof value !== "number") return Buffer.concat(value);
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}

/** One request, whose outcome the kernel is to tell; `body` is the family's own header, then attributes. */
export function request(type: number, flags: number, ...body: readonly Uint8Array[]): Uint8Array {
  const payload = Buffer.concat(body);
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32LE(HEADER_BYTES + payload.length, 0);
  header.writeUInt16LE(type, 4);
  header.writeUInt16LE(flags | NLM_F_REQUEST | NLM_F_ACK, 6);
  return Buffer.concat([header, payload]);
}

/** The payloads of the attributes that fill `bytes`, by type; a view. */
export function attributesOf(bytes: Buffer): Map<number, Buffer> {
  return new Map(blocks(bytes, (at) => bytes.readUInt16LE(at)).map((block) => [block.readUInt16LE(2), block.subarray(4)]));
}

/** A netlink socket, of the network namespace in which it was made. Every method throws KERNEL. */
export class NetlinkSocket implements Disposable {
  readonly #socket: RawSocket;
  readonly #into = Buffer.alloc(DATAGRAM_BYTES_MAX);

  /** @param groups bit mask of the multicast groups to listen to; of their messages the oldest are kept when there are too many */
  constructor(family: number, groups = 0) {
    this.#socket = new RawSocket(AF.NETLINK, family);
    this.#socket.keepUpTo(ANSWERS_BYTES_MAX);
    if (groups !== 0) {
      this.#socket.bind(netlinkAddress(groups));
      this.#socket.setOption(SOL_NETLINK, NETLINK_NO_ENOBUFS, int32(1));
    }
  }

  /** To be waited for with `readable`. */
  get fd(): number {
    return this.#socket.fd;
  }

  /** Has requests carried out, as one transaction if they form a batch. They have been when this returns. Throws their first error. */
  transact(requests: readonly Uint8Array[]): void {
    this.#socket.send(Buffer.concat(requests), netlinkAddress(0));
    if (this.receive().length === 0) throw new DmigrateError("KERNEL", "netlink gave no answer; check the kernel log");
  }

  /** Asks for a list; each entry from the family's own header on. */
  dump(type: number, header: Uint8Array): Buffer[] {
    this.#socket.send(request(type, NLM_F_DUMP, header), netlinkAddress(0));
    return this.receive()
      .filter((message) => message.readUInt16LE(4) !== NLMSG_DONE)
      .map((message) => message.subarray(HEADER_BYTES));
  }

  /** Takes every message that has arrived, each from its netlink header on. Throws if one of them tells an error. */
  receive(): Buffer[] {
    const messages: Buffer[] = [];
    const sender = netlinkAddress(0);
    for (let size = this.#socket.receive(this.#into, sender); size !== undefined; size = this.#socket.receive(this.#into, sender)) {
      const datagram = Buffer.from(this.#into.subarray(0, size));
      messages.push(...blocks(datagram, (at) => datagram.readUInt32LE(at)));
    }
    for (const message of messages) {
      const errno = message.readUInt16LE(4) === NLMSG_ERROR ? -message.readInt32LE(HEADER_BYTES) : 0;
      if (errno !== 0) throw kernelError("netlink", errno);
    }
    return messages;
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
  }
}

/** Cuts bytes into blocks that say their own length and begin at multiples of 4. */
function blocks(bytes: Buffer, lengthAt: (at: number) => number): Buffer[] {
  const found: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += Math.ceil(Math.max(lengthAt(at), 4) / 4) * 4) {
    found.push(bytes.subarray(at, at + lengthAt(at)));
  }
  return found;
}

function netlinkAddress(groups: number): Uint8Array {
  const address = Buffer.alloc(12); // struct sockaddr_nl: u16 family, pad; u32 port, groups
  address.writeUInt16LE(AF.NETLINK, 0);
  address.writeUInt32LE(groups, 8);
  return address;
}
