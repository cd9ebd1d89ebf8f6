/**
 * Sockets of the kinds that Node has none of: netlink, packet and raw IP (socket(2), netlink(7), packet(7), raw(7)).
 *
 * Addresses and option values are the C structures' bytes, little-endian as on every machine this runs on (x64, arm64).
 */
import { close, closeSync } from "node:fs";
import { promisify } from "node:util";
import { declare, must, mustUnless } from "./libc.ts";

/** Address families, as in <sys/socket.h>. */
export const AF = { INET: 2, INET6: 10, NETLINK: 16, PACKET: 17 } as const;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const MSG_TRUNC = 0x20;
const MSG_DONTWAIT = 0x40;
const SOL_SOCKET = 1;
const SO_RCVBUFFORCE = 33;
const EAGAIN = 11;

const libc = {
  socket: declare<(domain: number, type: number, protocol: number) => number>("int socket(int domain, int type, int protocol)"),
  bind: declare<(fd: number, address: Uint8Array, bytes: number) => number>("int bind(int fd, const void *addr, uint32_t len)"),
  setsockopt: declare<(fd: number, level: number, name: number, value: Uint8Array, bytes: number) => number>(
    "int setsockopt(int fd, int level, int name, const void *value, uint32_t len)",
  ),
  getsockopt: declare<(fd: number, level: number, name: number, value: Uint8Array, bytes: Uint32Array) => number>(
    "int getsockopt(int fd, int level, int name, void *value, void *len)",
  ),
  sendto: declare<(fd: number, data: Uint8Array, bytes: number, flags: number, address: Uint8Array, addressBytes: number) => number>(
    "long sendto(int fd, const void *buf, size_t len, int flags, const void *addr, uint32_t addrlen)",
  ),
  recvfrom: declare<(fd: number, into: Uint8Array, bytes: number, flags: number, address: Uint8Array, addressBytes: Uint32Array) => number>(
    "long recvfrom(int fd, void *buf, size_t len, int flags, void *addr, void *addrlen)",
  ),
};

/** A raw socket. It belongs to the network namespace in which it was made; no call on it blocks. Every method throws KERNEL. */
export class RawSocket implements Disposable, AsyncDisposable {
  readonly fd: number;

  constructor(family: number, protocol: number) {
    this.fd = must("socket", libc.socket(family, SOCK_RAW | SOCK_CLOEXEC, protocol));
  }

  bind(address: Uint8Array): void {
    must("bind", libc.bind(this.fd, address, address.length));
  }

  setOption(level: number, name: number, value: Uint8Array): void {
    must("setsockopt", libc.setsockopt(this.fd, level, name, value, value.length));
  }

  /** Sets how much the kernel may keep until it is received, beyond what an ordinary user is allowed (SO_RCVBUFFORCE, socket(7)). */
  keepUpTo(bytes: number): void {
    this.setOption(SOL_SOCKET, SO_RCVBUFFORCE, int32(bytes));
  }

  /** Reads an option into `value`, whose size must be the option's. */
  getOption(level: number, name: number, value: Uint8Array): void {
    must("getsockopt", libc.getsockopt(this.fd, level, name, value, Uint32Array.of(value.length)));
  }

  send(data: Uint8Array, address: Uint8Array): void {
    must("sendto", libc.sendto(this.fd, data, data.length, MSG_DONTWAIT, address, address.length));
  }

  /**
   * Receives one message into `into`, and its sender's address into `address`.
   *
   * @returns the message's size, which exceeds that of `into` if it did not fit; undefined if none is there
   */
  receive(into: Uint8Array, address: Uint8Array): number | undefined {
    const flags = MSG_DONTWAIT | MSG_TRUNC;
    return mustUnless("recvfrom", libc.recvfrom(this.fd, into, into.length, flags, address, Uint32Array.of(address.length)), EAGAIN);
  }

  [Symbol.dispose](): void {
    closeSync(this.fd);
  }

  /** Closes without blocking this thread: for a packet socket, whose close(2) waits until every processor has let go of it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await promisify(close)(this.fd);
  }
}

/** An int as an option's value. */
export function int32(value: number): Uint8Array {
  return new Uint8Array(Int32Array.of(value).buffer);
}
