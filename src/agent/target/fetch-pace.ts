/**
 * The pace at which a target fetches what no task waits for: where no processor is idle it takes no more of them than its budget, so that
 * the container, which runs here by then, and its neighbours get on. What a task waits for is never held up, but counts.
 */
import { CpuAllowance } from "../../core/cpu-allowance.ts";
import { grantedCores } from "../../core/dump-plan.ts";
import { loadBetween, type LoadReading } from "../../core/host-load.ts";
import { readLoad } from "../../kernel/load.ts";
import type { FetchPace } from "../../memory/page-handler.ts";

/** Between two looks at the host. */
const LOOK_MS = 250;

class MeasuredFetchPace implements FetchPace {
  readonly #budget: number;
  #load: LoadReading;
  #cores: number;
  readonly #allowance: CpuAllowance;

  /** @param budget share of the machine's processor time */
  constructor(budget: number) {
    this.#budget = budget;
    this.#load = readLoad();
    this.#cores = this.#load.cores * budget;
    this.#allowance = new CpuAllowance(this.#load.atMs, this.#load.ownMs);
  }

  waitMs(): number {
    if (performance.now() - this.#load.atMs >= LOOK_MS) {
      const load = readLoad();
      this.#cores = grantedCores(loadBetween(this.#load, load), this.#budget);
      this.#load = load;
    }
    const { user, system } = process.cpuUsage();
    return this.#allowance.waitMs(performance.now(), (user + system) / 1000, this.#cores);
  }
}

/** Of a target that is configured so, from now on. */
export function fetchPaceOf({ dumpPlan, cpuBudget }: { readonly dumpPlan: "measured" | "fixed"; readonly cpuBudget: number }): FetchPace {
  return dumpPlan === "fixed" ? { waitMs: () => 0 } : new MeasuredFetchPace(cpuBudget / 100);
}
