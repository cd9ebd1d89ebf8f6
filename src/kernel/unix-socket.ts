/**
 * Unix stream sockets over which descriptors are handed from process to process, which Node's own drop (unix(7), cmsg(3)).
 */
import { closeSync, constants, openSync, rmSync } from "node:fs";
import path from "node:path";
import { addressOf, declare, must, mustUnless } from "./libc.ts";

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const SOCK_NONBLOCK = 0o4000;
const BACKLOG = 4;
const SOL_SOCKET = 1;
const SO_SNDBUFFORCE = 32;
const SCM_RIGHTS = 1;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const EAGAIN = 11;

const MESSAGE_BYTES = 56; // struct msghdr: void *name; u32 size; iovec *; u64 count; void *control; u64 size; int flags
const CONTROL_BYTES = 24; // struct cmsghdr with one descriptor: u64 size without padding; int level, type; int fd
const CONTROL_SIZE = 20;

const libc = {
  socket: declare<(domain: number, type: number, protocol: number) => number>("int socket(int domain, int type, int protocol)"),
  socketpair: declare<(domain: number, type: number, protocol: number, fds: Int32Array) => number>(
    "int socketpair(int domain, int type, int protocol, void *sv)",
  ),
  setsockopt: declare<(fd: number, level: number, name: number, value: Uint8Array, bytes: number) => number>(
    "int setsockopt(int fd, int level, int name, const void *value, uint32_t len)",
  ),
  bind: declare<(fd: number, address: Uint8Array, bytes: number) => number>("int bind(int fd, const void *addr, uint32_t len)"),
  listen: declare<(fd: number, backlog: number) => number>("int listen(int fd, int backlog)"),
  accept: declare<(fd: number, address: null, bytes: null, flags: number) => number>(
    "int accept4(int fd, void *addr, void *len, int flags)",
  ),
  recvmsg: declare<(fd: number, message: Uint8Array, flags: number) => number>("long recvmsg(int fd, void *msg, int flags)"),
  sendmsg: declare<(fd: number, message: Uint8Array, flags: number) => number>("long sendmsg(int fd, const void *msg, int flags)"),
};

/** What one call received. */
export interface Received {
  /** Fewer than were asked for if no more were there or a descriptor came behind them; 0 at the end of the connection. */
  readonly byteCount: number;
  /** The receiver's from now on. */
  readonly fd: number | undefined;
}

/** Two connected stream sockets (socketpair(2)); a child gets one only where it is handed over. Throws KERNEL. */
export function socketPair(): [number, number] {
  const fds = new Int32Array(2);
  must("socketpair", libc.socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
  const [one = -1, other = -1] = fds;
  return [one, other];
}

/** Lets a socket hold so much that was sent and not received, beyond what an ordinary user is allowed (SO_SNDBUFFORCE, socket(7)). */
export function sendUpTo(socket: number, bytes: number): void {
  must("setsockopt", libc.setsockopt(socket, SOL_SOCKET, SO_SNDBUFFORCE, new Uint8Array(Int32Array.of(bytes).buffer), 4));
}

/**
 * Listens at `file`, which is replaced, and may be longer than an address: it is reached by way of its folder. Returns a descriptor
 * that does not block. Throws KERNEL.
 */
export function listenAt(file: string): number {
  const folder = openSync(path.dirname(file), constants.O_DIRECTORY);
  const fd = must("socket", libc.socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  try {
    rmSync(file, { force: true });
    const address = Buffer.from(`\x01\0/proc/self/fd/${folder}/${path.basename(file)}\0`);
    must("bind", libc.bind(fd, address, address.length));
    must("listen", libc.listen(fd, BACKLOG));
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  } finally {
    closeSync(folder);
  }
}

/** A connection to a listening socket, which does not block; undefined if there is none yet. Throws KERNEL. */
export function acceptFrom(listener: number): number | undefined {
  return mustUnless("accept4", libc.accept(listener, null, null, SOCK_CLOEXEC | SOCK_NONBLOCK), EAGAIN);
}

/** Receives up to the size of `into`, and at most one descriptor; undefined if nothing is there yet. Throws KERNEL. */
export function receive(socket: number, into: Uint8Array): Received | undefined {
  const control = offHeap(CONTROL_BYTES);
  const [message, vector] = messageOf(into, control);
  const byteCount = mustUnless("recvmsg", libc.recvmsg(socket, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC), EAGAIN);
  void vector; // the kernel was to find it
  if (byteCount === undefined) return undefined;
  const hasDescriptor = message.readBigUInt64LE(40) > 0n && control.readInt32LE(8) === SOL_SOCKET && control.readInt32LE(12) === SCM_RIGHTS;
  return { byteCount, fd: hasDescriptor ? control.readInt32LE(16) : undefined };
}

/** Sends a byte and with it a duplicate of a descriptor, which exists from then on whether it was received or not. Throws KERNEL. */
export function sendDescriptor(socket: number, fd: number): void {
  const control = offHeap(CONTROL_BYTES);
  control.writeBigUInt64LE(BigInt(CONTROL_SIZE), 0);
  control.writeInt32LE(SOL_SOCKET, 8);
  control.writeInt32LE(SCM_RIGHTS, 12);
  control.writeInt32LE(fd, 16);
  const bytes = offHeap(1);
  const [message, vector] = messageOf(bytes, control);
  must("sendmsg", libc.sendmsg(socket, message, MSG_DONTWAIT | MSG_NOSIGNAL));
  void [vector, bytes]; // the kernel was to find them
}

/** A struct msghdr, and the vector it points to. */
function messageOf(bytes: Uint8Array, control: Uint8Array): [Buffer, Buffer] {
  const vector = offHeap(16);
  vector.writeBigUInt64LE(addressOf(bytes), 0);
  vector.writeBigUInt64LE(BigInt(bytes.length), 8);
  const message = offHeap(MESSAGE_BYTES);
  message.writeBigUInt64LE(addressOf(vector), 16);
  message.writeBigUInt64LE(1n, 24);
  message.writeBigUInt64LE(addressOf(control), 32);
  message.writeBigUInt64LE(BigInt(control.length), 40);
  return [message, vector];
}

/** A buffer that the garbage collector never moves, however small. */
function offHeap(byteCount: number): Buffer {
  return Buffer.from(new ArrayBuffer(byteCount));
}
