/**
 * How busy this host is: what the kernel has counted so far (proc_stat(5), proc_meminfo(5), psi in Documentation/accounting/psi.rst), and
 * what an interface can carry (Documentation/ABI/testing/sysfs-class-net).
 */
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { isIPv6 } from "node:net";
import { networkInterfaces } from "node:os";
import type { LoadReading } from "../core/host-load.ts";

/** /proc counts in USER_HZ, which is 100 for all programs. */
const TICK_MS = 10;
/** Of the fields of a line `cpu` in /proc/stat: idle, and waiting for I/O with nothing else to do. */
const IDLE_FIELDS = [3, 4];

/** Takes less than 0.1 ms on a small machine. Throws ENOENT without /proc. */
export function readLoad(): LoadReading {
  const stat = readFileSync("/proc/stat", "utf8");
  const fields = /^cpu +(.*)$/m.exec(stat)?.[1]?.split(" ").map(Number) ?? [];
  const { user, system } = process.cpuUsage();
  return {
    atMs: performance.now(),
    cores: stat.match(/^cpu\d/gm)?.length ?? 1,
    idleMs: IDLE_FIELDS.reduce((sum, field) => sum + (fields[field] ?? 0), 0) * TICK_MS,
    ownMs: (user + system) / 1000,
    cpuWaitMs: waitedMs("cpu"),
    memoryWaitMs: waitedMs("memory"),
    availableBytes: Number(/^MemAvailable: +(\d+) kB$/m.exec(readFileSync("/proc/meminfo", "utf8"))?.[1] ?? 0) * 1024,
  };
}

/** Time in which some task waited for that; 0 if the kernel was built, or started, without it. */
function waitedMs(resource: "cpu" | "memory"): number {
  try {
    return Number(/^some .*total=(\d+)$/m.exec(readFileSync(`/proc/pressure/${resource}`, "utf8"))?.[1] ?? 0) / 1000;
  } catch {
    return 0;
  }
}

/** The interface by which packets to a host leave; undefined if there is no way to it. Nothing is sent. */
export async function interfaceTo(host: string): Promise<string | undefined> {
  const socket = createSocket(isIPv6(host) ? "udp6" : "udp4");
  try {
    socket.connect(9, host); // port 9, discard: any will do
    await once(socket, "connect");
    const { address } = socket.address();
    return Object.entries(networkInterfaces()).find(([, all]) => all?.some((each) => each.address === address))?.[0];
  } catch {
    return undefined;
  } finally {
    socket.close();
  }
}

/** What an interface carries at most, bytes a second; undefined if it does not tell: a bridge, a tunnel, a virtual machine's. */
export function interfaceRate(name: string): number | undefined {
  try {
    const megabits = Number(readFileSync(`/sys/class/net/${name}/speed`, "utf8"));
    return megabits > 0 ? (megabits * 1e6) / 8 : undefined;
  } catch {
    return undefined;
  }
}
