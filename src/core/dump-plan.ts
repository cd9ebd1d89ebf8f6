/**
 * How memory and files are copied while the container runs: the paper's resource-aware parallel dump. From what was measured follows how
 * much processor time the copy may take, how many readers read memory at once, in what chunks, over how many connections, whether there is
 * time to compress it, and in which order. Asked a few times a second; may change its mind each time. Pure.
 *
 * docs/resource-aware-dump.md tells where each rule comes from and what it is worth.
 */
import type { HostLoad } from "./host-load.ts";

const PAGE_BYTES = 4096;

/** What limits the container itself. */
export interface ContainerLimits {
  /** Processors it may use; undefined if all. */
  readonly quotaCores?: number | undefined;
  /** Memory that it may still take before it has to give some back; undefined if there is no limit. */
  readonly memoryLeftBytes?: number | undefined;
  /** Memory of its processes that lies in swap space: who reads it has it brought back, at the container's cost. */
  readonly swappedBytes: number;
}

export interface Measurements {
  readonly host: HostLoad;
  readonly container: ContainerLimits;
  /** The memory that is to be read, of each process; undefined if that is not known yet. */
  readonly spaceBytes?: readonly number[] | undefined;
  /** What the network interface to the target can carry at most, bytes a second; undefined if it does not tell. */
  readonly nicRate?: number | undefined;
  /** What has crossed since the last look, bytes a second. */
  readonly sentRate: number;
  /** Share of that time in which something was on its way to the link, and had not left: 0 to 1. */
  readonly sendingShare: number;
  /** What one reader reads, bytes a second; undefined until it was measured. */
  readonly readerRate?: number | undefined;
  /** Share of the machine's processor time that the copy may take if nothing is idle: more than 0, at most 1. */
  readonly budget: number;
}

/** What holds the number of readers down. */
export type Limit = "budget" | "processors" | "quota" | "link" | "memory" | "swap" | "work" | "readers";

export interface DumpPlan {
  /** Processors that this agent may use on average while it copies. */
  readonly cpuCores: number;
  /** Readers that read memory at the same time: 1 to 4. */
  readonly workers: number;
  /** Pages that a reader reads at once: a power of two, 16 to 256. */
  readonly chunkPages: number;
  /** Connections of a trunk that is opened now: 2 or 3, one of them reserved for what somebody waits for. */
  readonly connections: number;
  /** Whether there is processor time to compress what that is worth for (packing.ts). */
  readonly compression: "none" | "zstd";
  readonly limit: Limit | "unmeasured" | "fixed";
  /** The highest rate at which the link was seen to be what everything waited for, bytes a second. */
  readonly linkRate: number | undefined;
  /** For people: what decided the number of readers. */
  readonly why: string;
}

/** So much of the machine is left idle: a copy that fills it up can't see whether others would like to have more. */
const HEADROOM = 0.05;
/**
 * Who had something to send for most of the time, and meanwhile used less of a processor than this though it might have used more, waited
 * for the link.
 */
const WAITS_FOR_LINK = { sendingShare: 0.5, coresMax: 0.8 };
/** What one reader was measured to read, on the slowest occasion. */
const READER_RATE = 5e9;
/** More were never measured to read faster. */
const WORKERS_MAX = 4;
const CHUNK_PAGES = { min: 16, max: 256 };
/** A chunk should leave within that time: what waits longer for the link is written again meanwhile. */
const CHUNK_LINK_MS = 10;
/** Of the available memory, for buffers. */
const BUFFERS_SHARE = 1 / 64;
/** A reader reads one buffer while another one is sent. */
export const BUFFERS_PER_WORKER = 2;
/** From this share of time spent waiting for memory on, the host is short of it. */
const MEMORY_PRESSURE_MAX = 0.1;
/** On a link that is no faster, connections that share the rest only take from the reserved one: TCP gives each the same. */
const SLOW_LINK_RATE = 12.5e6;

/** How to begin, as long as nothing was measured: with the budget alone. */
export function firstPlan(cores: number, budget: number): DumpPlan {
  return {
    cpuCores: cores * budget,
    workers: 1,
    chunkPages: 128,
    connections: 3,
    compression: "none",
    limit: "unmeasured",
    linkRate: undefined,
    why: "nothing was measured yet",
  };
}

/** A plan that nothing changes, by which the copy takes all the processor time it can get: for comparison. */
export function fixedPlan(cores: number): DumpPlan {
  return { ...firstPlan(cores, 1), compression: "zstd", limit: "fixed", why: "the plan is fixed" };
}

/** @param previous the plan by which was done what was measured */
export function planDump(measured: Measurements, previous: DumpPlan): DumpPlan {
  const { host, container, spaceBytes, nicRate, readerRate = READER_RATE } = measured;
  const cpuCores = grantedCores(host, measured.budget);
  const linkRate = seenLinkRate(measured, previous);
  const carriedRate = Math.min(nicRate ?? Infinity, linkRate ?? Infinity);
  const isSwapping = container.swappedBytes > (container.memoryLeftBytes ?? Infinity);
  const isShortOfMemory = host.memoryPressure > MEMORY_PRESSURE_MAX;
  const bufferPages = (host.availableBytes * BUFFERS_SHARE) / BUFFERS_PER_WORKER / PAGE_BYTES;
  const chunkPages = isSwapping ? CHUNK_PAGES.min : chunkOf(Math.min(bufferPages, (carriedRate * CHUNK_LINK_MS) / 1000 / PAGE_BYTES));
  const byteCount = spaceBytes?.reduce((sum, each) => sum + each, 0) ?? Infinity;
  const isBusy = cpuCores <= host.cores * measured.budget;
  // The first of those that are smallest tells why.
  const most: readonly (readonly [Limit, number])[] = [
    ["budget", isBusy ? cpuCores : Infinity],
    ["swap", isSwapping ? 1 : Infinity],
    ["memory", isShortOfMemory ? 1 : bufferPages / chunkPages],
    ["link", Math.ceil(carriedRate / readerRate)],
    ["work", Math.ceil(byteCount / (chunkPages * PAGE_BYTES))],
    ["quota", Math.ceil(container.quotaCores ?? Infinity)],
    ["processors", cpuCores],
    ["readers", WORKERS_MAX],
  ];
  const bounds = most.map(([limit, count]) => [limit, Math.max(1, Math.floor(count))] as const);
  const [limit, workers] = bounds.reduce((least, each) => (each[1] < least[1] ? each : least));
  return {
    cpuCores,
    workers,
    chunkPages,
    connections: carriedRate <= SLOW_LINK_RATE ? 2 : 3,
    compression: isBusy ? "none" : "zstd",
    limit,
    linkRate,
    why: reason(limit, measured, { cpuCores, carriedRate }),
  };
}

/**
 * All that is idle, less the headroom. Where less than that is idle, others may want more than they get: so from look to look the
 * copy takes up to half less, down to its budget.
 */
export function grantedCores({ cores, idleCores, ownCores, cpuPressure }: HostLoad, budget: number): number {
  const headroom = cores * HEADROOM;
  const spare = idleCores * (1 - cpuPressure); // nobody has to wait for what is really to spare
  const wanted = spare < headroom ? ownCores * (0.5 + (0.5 * spare) / headroom) : ownCores + spare - headroom;
  return Math.min(cores, Math.max(cores * budget, wanted));
}

/**
 * The order of work: which space is read from next. Longest first: what is begun last is short, so that all readers end at about the
 * same time (Graham 1969). Asked again for each chunk, it has several large spaces read in turn, and one large one by all readers.
 */
export function longest<S extends { readonly byteCount: number }>(spaces: Iterable<S>): S | undefined {
  let found: S | undefined;
  for (const space of spaces) if (space.byteCount > (found?.byteCount ?? 0)) found = space;
  return found;
}

/** It is seen when nothing else holds the copy up; what has crossed it once it can carry. */
function seenLinkRate({ host, sentRate, sendingShare }: Measurements, { cpuCores, linkRate }: DumpPlan): number | undefined {
  const isWaitingForLink =
    sendingShare > WAITS_FOR_LINK.sendingShare && host.ownCores < WAITS_FOR_LINK.coresMax * Math.min(1, cpuCores) && sentRate > 0;
  if (linkRate === undefined) return isWaitingForLink ? sentRate : undefined;
  return Math.max(sentRate, linkRate);
}

/** The largest power of two that is not more, within its bounds. */
function chunkOf(pageCount: number): number {
  return 2 ** Math.floor(Math.log2(Math.min(CHUNK_PAGES.max, Math.max(CHUNK_PAGES.min, pageCount))));
}

function reason(
  limit: Limit,
  { host, container }: Measurements,
  { cpuCores, carriedRate }: { readonly cpuCores: number; readonly carriedRate: number },
): string {
  const cores = `${cpuCores.toFixed(1)} of ${host.cores} processors`;
  switch (limit) {
    case "swap":
      return "the container's memory lies in swap space, and it has no room to read that back";
    case "memory":
      return `the host is short of memory: ${Math.round(host.availableBytes / 1e6)} MB are available`;
    case "link":
      return `the link carries ${(carriedRate / 1e6).toFixed(0)} MB/s, which so many readers fill`;
    case "work":
      return "there is no more to read";
    case "quota":
      return `the container may use ${container.quotaCores?.toFixed(1)} processors, and can't write faster`;
    case "budget":
      return `nothing is idle: the copy may take ${cores}`;
    case "processors":
      return `${cores} are to spare`;
    case "readers":
      return "more readers would not read faster";
  }
}
