/**
 * The text files of /proc, read into values (proc(5) and the pages it names). Pure.
 */
import type { MemoryFacts } from "../core/preflight-facts.ts";
import { canonicalAddress, parseAddress } from "./sockets.ts";

/** What of /proc/PID/status a preflight needs (proc_pid_status(5)). */
export interface Status {
  readonly name: string;
  readonly state: string;
  readonly parentPid: number;
  readonly tracerPid: number;
  /** See `ProcessFacts`. */
  readonly foreignId: string;
  /** In the innermost pid namespace. */
  readonly innerPid: number;
  readonly threadCount: number;
  /** Effective capabilities as a bit mask. */
  readonly capabilities: bigint;
  /** Whether an inheritable capability is missing from the bounding set. */
  readonly inheritsBeyondBounds: boolean;
  /** Processors that it may run on, in list format. */
  readonly processors: string;
}

export function parseStatus(text: string): Status {
  const fields = colonFields(text);
  const numbers = (key: string): number[] => (fields.get(key) ?? "").split(/\s+/).map(Number);
  const mask = (key: string): bigint => BigInt(`0x${fields.get(key) ?? "0"}`);
  return {
    name: fields.get("Name") ?? "",
    state: fields.get("State")?.[0] ?? "",
    parentPid: numbers("PPid")[0] ?? 0,
    tracerPid: numbers("TracerPid")[0] ?? 0,
    foreignId: foreignId("user", numbers("Uid")) ?? foreignId("group", numbers("Gid")) ?? "",
    innerPid: numbers("NSpid").at(-1) ?? 0,
    threadCount: numbers("Threads")[0] ?? 1,
    capabilities: mask("CapEff"),
    inheritsBeyondBounds: (mask("CapInh") & ~mask("CapBnd")) !== 0n,
    processors: fields.get("Cpus_allowed_list") ?? "",
  };
}

/** @param ids real, effective, saved and that for files: who asks for limits must have the first three (getrlimit(2), EPERM) */
function foreignId(kind: "user" | "group", ids: readonly number[]): string | undefined {
  const foreign = ids.slice(0, 3).find((id) => id !== 0);
  return foreign === undefined ? undefined : `${kind} ${foreign}`;
}

/** Reads /proc/PID/smaps_rollup (proc_pid_smaps(5)). Swapped pages count as resident: they have to come too. */
export function parseSmapsRollup(text: string): MemoryFacts {
  const fields = colonFields(text);
  const bytes = (key: string): number => 1024 * Number.parseInt(fields.get(key) ?? "0", 10);
  return {
    residentBytes: bytes("Pss") + bytes("SwapPss"),
    anonymousBytes: bytes("Anonymous"),
    sharedBytes: bytes("Pss_Shmem"),
    lockedBytes: bytes("Locked"),
    hugePageBytes: bytes("Private_Hugetlb") + bytes("Shared_Hugetlb"),
  };
}

/** Of the text of /proc/PID/smaps: the bytes that are in `sharedBytes` of memory that processes share by having been forked. */
export function forkSharedBytes(smaps: string): number {
  const mappings = smaps.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m).filter((text) => FORK_SHARED.test(text));
  return mappings.reduce((sum, text) => sum + 1024 * Number(/^Pss:\s+(\d+) kB$/m.exec(text)?.[1] ?? 0), 0);
}

/** The kernel's name for such memory, and that of a restored one (src/kernel/shared-objects.ts). */
const FORK_SHARED = /^\S+ ...s \S+ 00:\S+ \d+ +\/(memfd:)?dev\/zero \(deleted\)$/m;

/** Multicast addresses in /proc/PID/net/igmp and igmp6, without those that the kernel itself receives at (RFC 1112, RFC 4861). */
export function parseMulticast(igmp: string, igmp6: string): string[] {
  const ipv4 = [...igmp.matchAll(/^\s+([0-9A-F]{8})\s/gm)].map(([, hex = ""]) => parseAddress(hex));
  const ipv6 = [...igmp6.matchAll(/\s([0-9a-f]{32})\s/g)].map(([, hex = ""]) => canonicalAddress(hex.replace(/.{4}(?!$)/g, "$&:")));
  return [...new Set([...ipv4, ...ipv6])].filter((address) => !KERNELS_GROUPS.test(address));
}

/** All hosts, all nodes, all routers, and the solicited-node addresses. */
const KERNELS_GROUPS = /^(224\.0\.0\.[12]|ff0[125]::[12]|ff02::1:ff[0-9a-f:]+)$/;

/** Whether a process of cgroup `path` is in `cgroup` or below it. */
export function isWithin(path: string | undefined, cgroup: string): boolean {
  return path === cgroup || path?.startsWith(cgroup === "/" ? "/" : `${cgroup}/`) === true;
}

/** Bytes of a line like `MemAvailable: 123 kB` in /proc/meminfo (proc_meminfo(5)); 0 if there is none. */
export function meminfoBytes(text: string, key: string): number {
  return 1024 * Number.parseInt(colonFields(text).get(key) ?? "0", 10);
}

/** Free huge pages of the default size. */
export function hugePagesFreeBytes(text: string): number {
  return Number.parseInt(colonFields(text).get("HugePages_Free") ?? "0", 10) * meminfoBytes(text, "Hugepagesize");
}

/** Flags of the first processor in /proc/cpuinfo: `flags` on x86, `Features` on ARM (proc_cpuinfo(5)). */
export function parseCpuFlags(text: string): string[] {
  const line = /^(?:flags|Features)\s*:(.*)$/m.exec(text)?.[1] ?? "";
  return line
    .split(" ")
    .filter((flag) => flag !== "")
    .toSorted();
}

function colonFields(text: string): Map<string, string> {
  return new Map(
    text.split("\n").flatMap((line) => {
      const colon = line.indexOf(":");
      return colon === -1 ? [] : [[line.slice(0, colon).trim(), line.slice(colon + 1).trim()] as const];
    }),
  );
}
