/**
 * Which means of tracking a host has, and the trackers of a container's tasks by the best of them (docs/dirty-tracking.md).
 */
import { DmigrateError } from "../../core/errors.ts";
import { writeMemory } from "../../kernel/process-memory.ts";
import { shareMemory } from "../../kernel/address-spaces.ts";
import { canPuppet, Puppet } from "../../kernel/puppet.ts";
import { openUserfaultfdBy, type OpenUserfaultfd } from "../../kernel/write-protection.ts";
import { PAGE_BYTES } from "../page-protocol.ts";
import { ComparisonBudget, ComparisonTracker } from "./comparison-tracker.ts";
import { SoftDirtyTracker } from "./soft-dirty-tracker.ts";
import type { BeginTracking, DirtyTracker } from "./tracker.ts";
import { WriteProtectionTracker } from "./write-protection-tracker.ts";

/** What a kernel may have to note writes with, the best first. */
const KERNEL_MEANS = ["write-protection", "soft-dirty"] as const;
export type KernelMeans = (typeof KERNEL_MEANS)[number];
/** Whether the kernel of this host has it. */
export type TrackingFeatures = Readonly<Record<KernelMeans, boolean>>;

/** So much of a container may be compared in the freeze and in each round: 16 MB, which takes some 8 ms. */
const COMPARED_PAGES_MAX = 4096;
/** What a process of our own has, above the page that it needs itself. */
const [OWN_PAGE, TRIED] = [0x10000, { start: 0x20000, end: 0x28000 }];

let measured: Promise<TrackingFeatures> | undefined;

/** Which means the kernel of this host has, found by trying at the first call. Throws KERNEL if it can't be tried just now. */
export async function trackingFeatures(): Promise<TrackingFeatures> {
  try {
    return await (measured ??= measure());
  } catch (error) {
    measured = undefined;
    throw error;
  }
}

async function measure(): Promise<TrackingFeatures> {
  if (!canPuppet()) return { "write-protection": false, "soft-dirty": false };
  return {
    "write-protection": await notes((puppet) => WriteProtectionTracker.begin(puppet.pid, (pid) => openUserfaultfdBy(puppet, pid))),
    "soft-dirty": await notes(async ({ pid }) => new SoftDirtyTracker(pid)),
  };
}

/** Whether a tracker tells the page that was written in a process of our own, once, and no other. */
async function notes(begin: (puppet: Puppet) => Promise<DirtyTracker>): Promise<boolean> {
  using puppet = await Puppet.begin(OWN_PAGE);
  await puppet.populate(TRIED);
  const written = { start: TRIED.start + PAGE_BYTES, end: TRIED.start + 2 * PAGE_BYTES };
  try {
    using tracker = await begin(puppet);
    tracker.written();
    writeMemory(puppet.pid, written.start, Buffer.of(1));
    const told = [tracker.writtenByNow(), tracker.written(), tracker.written()];
    return JSON.stringify(told) === JSON.stringify([[written], [written], []]);
  } catch {
    return false; // which is how a kernel says it
  }
}

/** By which means tasks are tracked, the first of them that can; none: their memory is compared. Pure. */
export function choose(features: TrackingFeatures): KernelMeans[] {
  return KERNEL_MEANS.filter((means) => features[means]);
}

/** Tracks the tasks of one container. */
export class Trackers {
  readonly #means: readonly KernelMeans[];
  readonly #openUserfaultfd: OpenUserfaultfd;
  readonly #budget = new ComparisonBudget(COMPARED_PAGES_MAX);
  /** Those whose soft-dirty bits are in use. */
  readonly #marked = new Set<number>();

  constructor(means: readonly KernelMeans[], open: OpenUserfaultfd) {
    this.#means = means;
    this.#openUserfaultfd = open;
  }

  /** Tracks a task by what the kernel notes of it. Throws KERNEL if it has ended or is traced, or the kernel has no means. */
  readonly note: BeginTracking = async (pid) => {
    let reason: unknown = new DmigrateError("KERNEL", "The kernel of this host does not note which pages are written");
    for (const means of this.#means) {
      try {
        return await this.#begin(means, pid);
      } catch (error) {
        reason = error;
      }
    }
    throw reason;
  };

  async #begin(means: KernelMeans, pid: number): Promise<DirtyTracker> {
    switch (means) {
      case "write-protection":
        return await WriteProtectionTracker.begin(pid, this.#openUserfaultfd);
      case "soft-dirty":
        // One's new beginning would have the other forget what was written.
        if ([...this.#marked].some((other) => other !== pid && shareMemory(pid, other)))
          throw new DmigrateError("KERNEL", `Process ${pid} shares its memory with another one, which is tracked; try again`);
        this.#marked.add(pid);
        return new SoftDirtyTracker(pid);
    }
  }

  /** Tracks a task, by comparison if nothing else is left. Throws KERNEL if its memory is too large for that. */
  readonly track: BeginTracking = (pid) => this.note(pid).catch(() => ComparisonTracker.begin(pid, this.#budget));
}
