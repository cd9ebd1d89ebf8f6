/**
 * A dump that can't go on: CRIU seizes a task that was stopped by a signal and then frozen, and waits for it to trap, which it does not
 * before it is thawed (ptrace(2), PTRACE_SEIZE; kernel/ptrace.c, JOBCTL_TRAPPING). The preflight refuses stopped tasks, but one may be
 * stopped later.
 */
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { stateOf } from "../kernel/tasks.ts";
import { freezerOf } from "./freezer.ts";

/** Nothing is looked at before, since that costs time while the container stands still: hardly a dump takes so long. */
const PATIENCE_MS = 1_000;
/** CRIU thaws the cgroup as soon as it has seized all tasks; before, it is in no such call for long. */
const STALLED_AFTER_MS = 1_000;
const LOOK_INTERVAL_MS = 100;

/** Watches the dump of the container whose init is `initPid`, from its beginning or later. */
export class StallWatch {
  readonly #initPid: number;
  readonly #beganAtMs = performance.now();
  #waitsSinceMs: number | undefined;

  constructor(initPid: number) {
    this.#initPid = initPid;
  }

  /** Whether CRIU has been waiting for long. To be asked often. */
  async isStalled(): Promise<boolean> {
    if (performance.now() - this.#beganAtMs < PATIENCE_MS) return false;
    if (!(await this.#isWaiting())) this.#waitsSinceMs = undefined;
    else this.#waitsSinceMs ??= performance.now();
    return this.#waitsSinceMs !== undefined && performance.now() - this.#waitsSinceMs > STALLED_AFTER_MS;
  }

  /** Lets the tasks run that CRIU does not hold: it goes on then, though with what must not be used. */
  async release(): Promise<void> {
    await (await freezerOf(this.#initPid)).thaw();
  }

  async #isWaiting(): Promise<boolean> {
    const criu = criuOf(this.#initPid);
    if (criu === undefined || stateOf(criu) !== "D") return false;
    return await freezerOf(this.#initPid).then(
      (freezer) => freezer.isFrozen(),
      () => false, // the container has ended
    );
  }
}

/** Fulfilled when the dump stalls; never if `signal` is aborted before. */
export async function whenStalled(initPid: number, signal: AbortSignal): Promise<void> {
  const watch = new StallWatch(initPid);
  for (;;) {
    await sleep(LOOK_INTERVAL_MS, undefined, { signal }).catch(() => {});
    if (signal.aborted) return await new Promise<never>(() => {});
    if (await watch.isStalled()) return;
  }
}

function criuOf(initPid: number): number | undefined {
  return findProcess((argv) => isCriuOf(initPid, argv));
}

/** Whether it is the CRIU that dumps that task, as it calls itself then (criu/cr-service.c). */
export function isCriuOf(initPid: number, argv: readonly string[]): boolean {
  return argv[0] === `criu: dump --rpc -t ${initPid}`;
}

/** The process id of one with such arguments, if there is any. */
export function findProcess(isMeant: (argv: readonly string[]) => boolean): number | undefined {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  const found = pids.find((pid) => {
    try {
      return isMeant(readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0"));
    } catch {
      return false; // it ended meanwhile
    }
  });
  return found === undefined ? undefined : Number(found);
}
