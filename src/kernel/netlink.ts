/**
 * Netlink: requests made of attributes, and sockets that carry them to the kernel (netlink(7)).
 */
import { DmigrateError } from "../core/errors.ts";
import { kernelError } from "./libc.ts";
import { AF, RawSocket } from "./socket.ts";

/** Netlink families, as in <linux/netlink.h>. */
export const NETLINK = { ROUTE: 0, NETFILTER: 12 } as const;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const NLA_F_NESTED = 0x8000;
const NLMSG_ERROR = 2; // also an acknowledgement: i32 errno, negative, or 0
const HEADER_BYTES = 16; // struct nlmsghdr: u32 length; u16 type, flags; u32 sequence, port

/** One attribute: a string ends with NUL, a number is a big-endian u32 (as nfnetlink has them), an array holds nested attributes. */
export function attribute(type: number, value: string | number | readonly Uint8Array[]): Uint8Array {
  const payload = attributePayload(value);
  const bytes = Buffer.alloc(4 + Math.ceil(payload.length / 4) * 4);
  bytes.writeUInt16LE(4 + payload.length, 0);
  bytes.writeUInt16LE(Array.isArray(value) ? type | NLA_F_NESTED : type, 2);
  bytes.set(payload, 4);
  return bytes;
}

function attributePayload(value: string | number | readonly Uint8Array[]): Uint8Array {
  if (typeof value === "string") return Buffer.from(`${value}\0`);
  if (typeof value !== "number") return Buffer.concat(value);
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}

/** One request, to be acknowledged; `body` is the family's own header, then attributes. */
export function request(type: number, flags: number, ...body: readonly Uint8Array[]): Uint8Array {
  const payload = Buffer.concat(body);
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32LE(HEADER_BYTES + payload.length, 0);
  header.writeUInt16LE(type, 4);
  header.writeUInt16LE(flags | NLM_F_REQUEST | NLM_F_ACK, 6);
  return Buffer.concat([header, payload]);
}

/** A netlink socket, of the network namespace in which it was made. Every method throws KERNEL. */
export class NetlinkSocket implements Disposable {
  readonly #socket: RawSocket;

  /** @param groups bit mask of the multicast groups to listen to */
  constructor(family: number, groups = 0) {
    this.#socket = new RawSocket(AF.NETLINK, family);
    if (groups !== 0) this.#socket.bind(netlinkAddress(groups));
  }

  /** To be waited for with `readable`. */
  get fd(): number {
    return this.#socket.fd;
  }

  /** Has requests carried out, as one transaction if they form a batch. They have been when this returns. Throws the first error there was. */
  transact(requests: readonly Uint8Array[]): void {
    this.#socket.send(Buffer.concat(requests), netlinkAddress(0));
    const answers = this.receive();
    if (answers.length === 0) throw new DmigrateError("KERNEL", "netlink gave no answer; check the kernel log");
    for (const answer of answers) {
      const errno = answer.readUInt16LE(4) === NLMSG_ERROR ? -answer.readInt32LE(HEADER_BYTES) : 0;
      if (errno !== 0) throw kernelError("netlink", errno);
    }
  }

  /** Takes every message that has arrived, each from its header on. */
  receive(): Buffer[] {
    const messages: Buffer[] = [];
    const into = Buffer.alloc(32 * 1024);
    const sender = Buffer.alloc(12);
    for (let size = this.#socket.receive(into, sender); size !== undefined; size = this.#socket.receive(into, sender)) {
      messages.push(Buffer.from(into.subarray(0, size)));
    }
    return messages;
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
  }
}

function netlinkAddress(groups: number): Uint8Array {
  const address = Buffer.alloc(12); // struct sockaddr_nl: u16 family, pad; u32 port, groups
  address.writeUInt16LE(AF.NETLINK, 0);
  address.writeUInt32LE(groups, 8);
  return address;
}
