/** Every adapter of the tracker's port, for the tests that all of them must pass. */
import { mappingsOf } from "../../kernel/maps.ts";
import { canScan, Pagemap } from "../../kernel/pagemap.ts";
import { ComparisonBudget, ComparisonTracker } from "./comparison-tracker.ts";
import { SoftDirtyTracker } from "./soft-dirty-tracker.ts";
import type { BeginTracking } from "./tracker.ts";
import type { TrackingFeatures } from "./trackers.ts";
import { WriteProtectionTracker } from "./write-protection-tracker.ts";

/** What the kernel here has for sure, however well our adapters use it. */
export const KERNEL: TrackingFeatures = { "write-protection": canScan(), "soft-dirty": hasSoftDirty() };

interface Adapter {
  readonly begin: BeginTracking;
  /** Why it can't be tested here. */
  readonly skip: string | false;
}

/** Without them none is ever set; with them, new memory has them. */
function hasSoftDirty(): boolean {
  using pagemap = new Pagemap(process.pid);
  let has = false;
  for (const stack of mappingsOf(process.pid).filter(({ path }) => path === "[stack]"))
    pagemap.read(stack, (_address, _frame, isSoftDirty) => (has ||= isSoftDirty));
  return has;
}

function unlessKernelHas(means: keyof TrackingFeatures): string | false {
  return KERNEL[means] ? false : `the kernel here has no ${means}`;
}

export const ADAPTERS: Readonly<Record<string, Adapter>> = {
  "write protection": { begin: (pid) => WriteProtectionTracker.begin(pid), skip: unlessKernelHas("write-protection") },
  "soft-dirty bits": { begin: async (pid) => new SoftDirtyTracker(pid), skip: unlessKernelHas("soft-dirty") },
  comparison: { begin: (pid) => ComparisonTracker.begin(pid, new ComparisonBudget(Infinity)), skip: false },
};
