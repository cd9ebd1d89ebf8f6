/**
 * Options of TCP connections that Node has no call for (tcp(7), include/uapi/linux/tcp.h).
 */
import type { Socket } from "node:net";
import { declare, must } from "./libc.ts";

const IPPROTO_TCP = 6;
const TCP_NOTSENT_LOWAT = 25;

const setsockopt = declare<(fd: number, level: number, name: number, value: Int32Array, bytes: number) => number>(
  "int setsockopt(int fd, int level, int name, const void *value, uint32_t len)",
);

/**
 * Has the kernel take no more of a connection's data while it keeps so many bytes that it has not sent yet: what is written next leaves
 * soon, whatever was written before (TCP_NOTSENT_LOWAT). Does nothing to a connection that is closed. Throws KERNEL.
 */
export function limitUnsent(socket: Socket, byteCount: number): void {
  const { fd } = (socket as SocketWithHandle)._handle ?? {};
  if (fd === undefined || fd < 0) return;
  const value = Int32Array.of(byteCount);
  must("setsockopt", setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, value, value.byteLength));
}

/** Node shows a connection's descriptor nowhere else (net.Socket, `_handle`). */
type SocketWithHandle = Socket & { readonly _handle?: { readonly fd?: number } | null };
