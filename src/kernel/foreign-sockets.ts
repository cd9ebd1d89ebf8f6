/**
 * What the kernel tells of sockets that other processes hold: the peers of unix sockets (sock_diag(7)), and the protocol of
 * any socket descriptor.
 */
import { DmigrateError } from "../core/errors.ts";
import { declare, kernelError, must } from "./libc.ts";
import type { NetworkNamespace } from "./netns.ts";
import { AF, RawSocket } from "./socket.ts";

/** A unix socket by its inode, and its peer's; 0 if it has none. */
export interface UnixPeer {
  readonly inode: number;
  readonly peerInode: number;
}

const AF_UNIX = 1;
const NETLINK_SOCK_DIAG = 4;
const SOCK_DIAG_BY_FAMILY = 20;
const NLM_F_REQUEST_DUMP = 0x301;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const UDIAG_SHOW_PEER = 4;
const UNIX_DIAG_PEER = 2;
const HEADER_BYTES = 16; // struct nlmsghdr
const UNIX_MESSAGE_BYTES = 16; // struct unix_diag_msg: u8 family, type, state, pad; u32 inode; u32 cookie[2]
const KERNEL_ADDRESS = Uint8Array.of(AF.NETLINK, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0); // struct sockaddr_nl

/** All unix sockets that were made in a network namespace. Throws KERNEL. */
export function unixPeers(namespace: NetworkNamespace): UnixPeer[] {
  using socket = namespace.run(() => new RawSocket(AF.NETLINK, NETLINK_SOCK_DIAG));
  socket.send(unixDumpRequest(), KERNEL_ADDRESS);
  const peers: UnixPeer[] = [];
  const datagram = Buffer.alloc(64 * 1024); // the kernel makes none larger than 32 KiB (netlink_dump)
  for (;;) {
    const length = socket.receive(datagram, Buffer.alloc(KERNEL_ADDRESS.length)) ?? 0;
    if (length === 0) throw new DmigrateError("KERNEL", "The kernel broke off its list of unix sockets; try again");
    for (const message of blocks(datagram.subarray(0, length), 0, (at) => datagram.readUInt32LE(at))) {
      const type = message.readUInt16LE(4);
      if (type === NLMSG_DONE) return peers;
      if (type === NLMSG_ERROR) throw kernelError("sock_diag", -message.readInt32LE(HEADER_BYTES));
      peers.push(unixPeer(message.subarray(HEADER_BYTES)));
    }
  }
}

/** nlmsghdr and unix_diag_req: u8 family, protocol; u16 pad; u32 states, inode, show, cookie[2]. */
function unixDumpRequest(): Uint8Array {
  const request = Buffer.alloc(HEADER_BYTES + 24);
  request.writeUInt32LE(request.length, 0);
  request.writeUInt16LE(SOCK_DIAG_BY_FAMILY, 4);
  request.writeUInt16LE(NLM_F_REQUEST_DUMP, 6);
  request.writeUInt8(AF_UNIX, HEADER_BYTES);
  request.writeUInt32LE(0xffff_ffff, HEADER_BYTES + 4);
  request.writeUInt32LE(UDIAG_SHOW_PEER, HEADER_BYTES + 12);
  return request;
}

function unixPeer(message: Buffer): UnixPeer {
  const attributes = blocks(message, UNIX_MESSAGE_BYTES, (at) => message.readUInt16LE(at));
  const peer = attributes.find((attribute) => attribute.readUInt16LE(2) === UNIX_DIAG_PEER);
  return { inode: message.readUInt32LE(4), peerInode: peer?.readUInt32LE(4) ?? 0 };
}

/** What netlink strings together: blocks that begin with their length, each padded to four bytes. */
function blocks(bytes: Buffer, start: number, lengthAt: (at: number) => number): Buffer[] {
  const found: Buffer[] = [];
  for (let at = start; at + 4 <= bytes.length;) {
    const length = lengthAt(at);
    found.push(bytes.subarray(at, at + length));
    at += Math.max(4, (length + 3) & ~3);
  }
  return found;
}

const getxattr = declare<(path: string, name: string, value: Uint8Array, bytes: number) => number>(
  "long getxattr(const char *path, const char *name, void *value, size_t size)",
);

/** Name of a socket's protocol, like `TCP` or `MPTCP`, by its path in /proc/PID/fd (net/socket.c, sockfs_xattr_handlers). Throws KERNEL. */
export function socketProtocol(path: string): string {
  const value = Buffer.alloc(64);
  const length = must("getxattr", getxattr(path, "system.sockprotoname", value, value.length));
  return value.toString("latin1", 0, length).replace(/\0$/, "");
}
