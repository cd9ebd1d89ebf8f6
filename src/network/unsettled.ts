/**
 * Connections that no process holds at a moment: an application has yet to accept them, or has closed them while they still have
 * something to say. CRIU dumps what processes hold: at such a moment it loses those of TCP without a word, and refuses some of Unix.
 */
import { readFile } from "node:fs/promises";

/** include/net/tcp_states.h. */
const TCP = { ESTABLISHED: 1, SYN_RECV: 3, FIN_WAIT1: 4, CLOSE_WAIT: 8, LAST_ACK: 9, CLOSING: 11 } as const;
const NOT_ACCEPTED: ReadonlySet<number> = new Set([TCP.ESTABLISHED, TCP.SYN_RECV, TCP.CLOSE_WAIT]);
const CLOSED: ReadonlySet<number> = new Set([TCP.FIN_WAIT1, TCP.LAST_ACK, TCP.CLOSING]);

/**
 * How many the network namespace of a process has. The kernel looks through all connections of the host for each of the tables, some
 * milliseconds long, so they are read at the same time.
 */
export async function unsettledCount(pid: number): Promise<number> {
  const [unix = "", ...tcp] = await Promise.all(["unix", "tcp", "tcp6"].map((name) => readTable(`/proc/${pid}/net/${name}`)));
  return tcp.reduce((count, table) => count + countUnsettledTcp(table), countUnsettledUnix(unix));
}

/** Those in the text of /proc/PID/net/unix (proc_pid_net(5)): a connection has an inode from the moment it is accepted. Pure. */
export function countUnsettledUnix(table: string): number {
  return table.split("\n").filter((line) => /^\S+: \S+ \S+ \S+ \S+ \S+ +0( |$)/.test(line)).length;
}

/** Those in the text of /proc/PID/net/tcp or tcp6 (kernel Documentation/networking/proc_net_tcp.rst). Pure. */
export function countUnsettledTcp(table: string): number {
  return table.split("\n").filter((line) => {
    const [, , , state = "", queues = "", , , , , inode] = line.trim().split(/\s+/);
    if (inode !== "0") return false;
    const code = Number.parseInt(state, 16);
    return NOT_ACCEPTED.has(code) || (CLOSED.has(code) && !queues.startsWith("00000000:"));
  }).length;
}

/** A kernel without IPv6 has no tcp6. */
function readTable(file: string): Promise<string> {
  return readFile(file, "utf8").catch((error: unknown) => {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return "";
    throw error;
  });
}
