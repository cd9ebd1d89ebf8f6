/**
 * The sockets of one network namespace by their inodes, as /proc/PID/net tells them (proc_pid_net(5)).
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import type { PublishedPort, Socket, TcpState } from "../core/preflight-facts.ts";
import { unixPeers, type UnixPeer } from "../kernel/foreign-sockets.ts";
import { NetworkNamespace } from "../kernel/netns.ts";

/** Sockets by inode. Those that are bound to nothing are in none of the kernel's tables. */
export type SocketTable = ReadonlyMap<number, Socket>;

/** One table for each network namespace, read when it is first asked for. */
export class SocketTables {
  readonly #byNamespace = new Map<string, SocketTable>();

  /** The table of the namespace that process `folder` (/proc/PID) lives in. Throws ENOENT, ESRCH or KERNEL if it has ended. */
  of(folder: string): SocketTable {
    const name = readlinkSync(`${folder}/ns/net`);
    const known = this.#byNamespace.get(name);
    if (known !== undefined) return known;
    using namespace = NetworkNamespace.open(`${folder}/ns/net`);
    const table = readSockets(`${folder}/net`, unixPeers(namespace));
    this.#byNamespace.set(name, table);
    return table;
  }
}

/** Names of include/net/tcp_states.h by their numbers. */
const TCP_STATES: Readonly<Record<number, TcpState>> = { 1: "established", 2: "syn-sent", 7: "closed", 10: "listen" };

/**
 * Reads a table.
 *
 * @param folder /proc/PID/net of a process in the namespace
 * @param peers the namespace's unix sockets, which the text files tell without their peers
 */
export function readSockets(folder: string, peers: readonly UnixPeer[]): SocketTable {
  const table = new Map<number, Socket>();
  const read = (name: string, parse: (fields: readonly string[]) => readonly [string | undefined, Socket]): void => {
    for (const line of linesOf(`${folder}/${name}`)) {
      const [inode, socket] = parse(line.trim().split(/\s+/));
      table.set(Number(inode), socket);
    }
  };
  for (const name of ["tcp", "tcp6"]) read(name, parseTcp);
  for (const name of ["udp", "udp6", "udplite", "udplite6", "icmp", "icmp6"])
    read(name, ([, local = "", , , , , , , , inode]) => [inode, { type: "udp", local: parseAddress(local) }]);
  for (const name of ["raw", "raw6"]) read(name, ([, , , , , , , , , inode]) => [inode, { type: "raw" }]);
  read("packet", ([, , , , interfaceIndex, , , , inode]) => [inode, { type: "packet", interfaceIndex: Number(interfaceIndex) }]);
  read("netlink", ([, , portId, groups, queued, , , , , inode]) => [
    inode,
    { type: "netlink", portId: Number(portId), groups: Number.parseInt(groups ?? "0", 16), queuedBytes: Number(queued) },
  ]);
  for (const [inode, socket] of unixSockets(`${folder}/unix`, peers)) table.set(inode, socket);
  return table;
}

/** `sl local remote state ...` (proc_net_tcp.rst). */
function parseTcp(fields: readonly string[]): readonly [string | undefined, Socket] {
  const [, local = "", remote = "", state = "0", , , , , , inode] = fields;
  const tcpState = TCP_STATES[Number.parseInt(state, 16)] ?? "closing";
  return [inode, { type: "tcp", state: tcpState, local: parseAddress(local), remote: parseAddress(remote) }];
}

function* unixSockets(file: string, peers: readonly UnixPeer[]): Iterable<readonly [number, Socket]> {
  const pathOf = new Map<number, string>();
  for (const line of linesOf(file)) {
    const [, , , , , , inode, ...path] = line.split(/ +/);
    pathOf.set(Number(inode), path.join(" "));
  }
  const peerOf = new Map(peers.map(({ inode, peerInode }) => [inode, peerInode]));
  for (const inode of pathOf.keys()) {
    const peerInode = peerOf.get(inode) ?? 0;
    yield [inode, { type: "unix", inode, peerInode, path: pathOf.get(peerInode) ?? "" }];
  }
}

/** The lines below the heading; none where the kernel lacks the protocol. */
function linesOf(file: string): string[] {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch {
    return [];
  }
  return text
    .split("\n")
    .slice(1)
    .filter((line) => line !== "");
}

/** An address of the form HEX:PORT, 32-bit words in host order, without its port. An IPv4 address inside an IPv6 one is told as IPv4. */
export function parseAddress(text: string): string {
  const words = (text.split(":")[0] ?? "").match(/.{8}/g) ?? [];
  const bytes = Buffer.from(words.join(""), "hex");
  for (let at = 0; at < bytes.length; at += 4) bytes.subarray(at, at + 4).reverse();
  if (bytes.length !== 16) return bytes.join(".");
  const isMapped = bytes.readBigUInt64BE(0) === 0n && bytes.readUInt32BE(8) === 0xffff;
  if (isMapped) return bytes.subarray(12).join(".");
  return canonicalAddress(bytes.toString("hex").replace(/.{4}(?!$)/g, "$&:"));
}

/** An IPv6 address as Docker and people write it, as short as can be (RFC 5952). */
export function canonicalAddress(address: string): string {
  return address.includes(":") ? new URL(`http://[${address}]`).hostname.slice(1, -1) : address;
}

/** A port that processes have, and the inode of their socket. */
export interface BoundPort {
  readonly port: PublishedPort;
  readonly inode: number;
}

/** Ports that the processes of a network namespace listen at (TCP) or are bound to (UDP). */
export function boundPorts(folder: string): BoundPort[] {
  return (["tcp", "udp"] as const).flatMap((protocol) =>
    [protocol, `${protocol}6`].flatMap((name) =>
      linesOf(`${folder}/${name}`).flatMap((line) => {
        const [, local = "", , state = "", , , , , , inode] = line.trim().split(/\s+/);
        if (protocol === "tcp" && TCP_STATES[Number.parseInt(state, 16)] !== "listen") return [];
        const port = { hostAddress: parseAddress(local), hostPort: Number.parseInt(local.split(":")[1] ?? "", 16), protocol };
        return [{ port, inode: Number(inode) }];
      }),
    ),
  );
}

/** Finds a process that holds a socket: "process NAME (PID)"; undefined if there is none, like for those of the kernel. */
export function socketHolder(inode: number): string | undefined {
  const link = `socket:[${inode}]`;
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  const holder = pids.find((pid) => descriptorsOf(pid).some((fd) => unlessGone(() => readlinkSync(fd)) === link));
  const name = unlessGone(() => readFileSync(`/proc/${holder}/comm`, "utf8"));
  return name === undefined ? undefined : `process ${name.trim()} (${holder})`;
}

function descriptorsOf(pid: string): string[] {
  const folder = `/proc/${pid}/fd`;
  return unlessGone(() => readdirSync(folder).map((fd) => `${folder}/${fd}`)) ?? [];
}

/** Processes and their descriptors come and go. */
function unlessGone<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
