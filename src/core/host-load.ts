/**
 * How busy a host is, from two looks at what its kernel has counted. Pure.
 */

/** What had been counted by a moment; all but `availableBytes` and `cores` only grow. */
export interface LoadReading {
  readonly atMs: number;
  /** Processors of the machine. */
  readonly cores: number;
  /** Time that processors had nothing to do, summed over all of them. */
  readonly idleMs: number;
  /** Processor time of this process, all of its threads. */
  readonly ownMs: number;
  /** Time in which at least one task waited for a processor; 0 where the kernel does not tell (psi(5), "some"). */
  readonly cpuWaitMs: number;
  /** Time in which at least one task waited for memory; 0 where the kernel does not tell. */
  readonly memoryWaitMs: number;
  /** Memory that can be had without swapping. */
  readonly availableBytes: number;
}

/** How busy the host was for a while. */
export interface HostLoad {
  readonly cores: number;
  /** Processors that had nothing to do, on average: 0 to `cores`. */
  readonly idleCores: number;
  /** Processors that this process used, on average. */
  readonly ownCores: number;
  /** Share of the time in which some task waited for a processor: 0 to 1. */
  readonly cpuPressure: number;
  /** Share of the time in which some task waited for memory: 0 to 1. */
  readonly memoryPressure: number;
  readonly availableBytes: number;
}

/** What lies between two looks, the second of which is later. */
export function loadBetween(before: LoadReading, after: LoadReading): HostLoad {
  const { cores, availableBytes } = after;
  const elapsedMs = after.atMs - before.atMs;
  const per = (field: "idleMs" | "ownMs" | "cpuWaitMs" | "memoryWaitMs", most: number): number =>
    Math.min(most, Math.max(0, after[field] - before[field]) / elapsedMs);
  return {
    cores,
    idleCores: per("idleMs", cores),
    ownCores: per("ownMs", cores),
    cpuPressure: per("cpuWaitMs", 1),
    memoryPressure: per("memoryWaitMs", 1),
    availableBytes,
  };
}
