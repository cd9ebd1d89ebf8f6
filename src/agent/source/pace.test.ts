/** The pace of a copy beside neighbours that want all processors, on the real machine. Needs root, and Linux 6.7. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { setPriority, tmpdir } from "node:os";
import path from "node:path";
import { describe, it } from "node:test";
import { setImmediate as turn, setTimeout as sleep } from "node:timers/promises";
import { crc32 } from "node:zlib";
import { readLoad } from "../../kernel/load.ts";
import { ArenaProcess } from "../../memory/arena-process.fixture.ts";
import { PAGE_BYTES } from "../../memory/page-protocol.ts";
import { MemoryRounds, type RoundSink } from "../../memory/rounds.ts";
import { FRAME_PAGES_MAX } from "../../wire/trunk-frames.ts";
import { pacedPages, paceOf, type Pace } from "./pace.ts";

const ARENA_PAGES = 16_384;
const BUDGET = 0.05;
/** The kernel counts in ticks of 10 ms, and each round begins with what has no pace: finding out what was written. */
const MARGIN = 0.035;
/** What neighbours do between two looks, together: half a second of work, or more. */
const UNITS = 1500;
const WINDOWS = 3;

/**
 * So that whatever else runs on this machine hardly counts, all who take part have more weight than that: by the group of their session,
 * if the kernel makes such (sched(7), autogroup) and they are in one, and each by itself.
 */
const FAVOURED = -15;
const AUTOGROUP = "/proc/self/autogroup";

function favour(nice: number, pids: readonly (number | undefined)[]): void {
  const isGrouped = existsSync(AUTOGROUP) && readFileSync(AUTOGROUP, "utf8") !== ""; // what no session began has no such group
  if (isGrouped) writeFileSync(AUTOGROUP, `${nice}`);
  for (const pid of pids) setPriority(pid ?? 0, nice);
}

/** Processes, as many as processors, that do nothing but work. */
class Neighbours implements AsyncDisposable {
  readonly #folder = mkdtempSync(path.join(tmpdir(), "pace-test-"));
  readonly #processes = Array.from({ length: readLoad().cores }, (_, index) =>
    spawn("perl", ["-e", "open(F, '>', $ARGV[0]); for (;;) { for (1 .. 40_000) {} syswrite(F, '.') }", this.#file(index)], {
      stdio: "ignore",
    }),
  );

  #file(index: number): string {
    return path.join(this.#folder, `${index}`);
  }

  /** Units of work that they have done so far. */
  get units(): number {
    return this.#processes.reduce((sum, _, index) => sum + (statSync(this.#file(index), { throwIfNoEntry: false })?.size ?? 0), 0);
  }

  /** Processor time that they have used so far. */
  get usedMs(): number {
    return this.#processes.reduce((sum, { pid }) => {
      const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
        .replace(/^.*\) /, "")
        .split(" ");
      return sum + (Number(fields[11]) + Number(fields[12])) * 10; // utime, stime (proc_pid_stat(5))
    }, 0);
  }

  async started(): Promise<void> {
    favour(FAVOURED, [process.pid, ...this.#processes.map(({ pid }) => pid)]);
    while (this.units === 0) await sleep(25);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of this.#processes) {
      child.kill("SIGKILL");
      await once(child, "exit");
    }
    rmSync(this.#folder, { recursive: true });
  }
}

/** Processor time of the whole machine so far, used or not. */
function machineMs(): number {
  const [, ...fields] = (/^cpu .*$/m.exec(readFileSync("/proc/stat", "utf8"))?.[0] ?? "").split(/ +/);
  return fields.slice(0, 8).reduce((sum, ticks) => sum + Number(ticks) * 10, 0); // without guests, which are in user
}

/** Takes pages as they are sent, and does with them what sending costs, or less. */
function sinkUntil(isOver: () => boolean): RoundSink {
  const bytes = Buffer.alloc(FRAME_PAGES_MAX * PAGE_BYTES);
  return {
    sendPages: async (runs, read) => {
      for (const run of runs) {
        for (let at = 0; at < run.pageCount && !isOver(); at += FRAME_PAGES_MAX) {
          const part = { ...run, page: run.page + at, pageCount: Math.min(FRAME_PAGES_MAX, run.pageCount - at) };
          const into = bytes.subarray(0, part.pageCount * PAGE_BYTES);
          read(part, into);
          crc32(into);
          await turn();
        }
      }
    },
    send: () => Promise.resolve(),
  };
}

/** Processor time in milliseconds. */
interface Used {
  machine: number;
  copy: number;
  neighbours: number;
}

/** Copies until the neighbours have done some work; adds what everybody used meanwhile. */
async function watch(neighbours: Neighbours, used: Used, copied?: { readonly pid: number; readonly pace: Pace }): Promise<void> {
  const untilUnits = neighbours.units + UNITS;
  const before = { machine: machineMs(), copy: readLoad().ownMs, neighbours: neighbours.usedMs };
  let isOver = false;
  const isPast = (): boolean => isOver;
  const copying = (async () => {
    if (copied === undefined) return;
    while (!isPast()) {
      using rounds = new MemoryRounds({ pids: () => [copied.pid], hold: async () => ({ [Symbol.asyncDispose]: async () => {} }) });
      await rounds.round(pacedPages(copied.pace, sinkUntil(isPast)));
    }
  })();
  while (neighbours.units < untilUnits) await sleep(25);
  used.machine += machineMs() - before.machine;
  used.copy += readLoad().ownMs - before.copy;
  used.neighbours += neighbours.usedMs - before.neighbours;
  isOver = true;
  await copying;
}

const nothing = (): Used => ({ machine: 0, copy: 0, neighbours: 0 });
const shareOf = ({ machine, copy }: Used): number => copy / machine;
/** How much of what was there for both the neighbours got: whatever else runs on this machine. */
const progressOf = ({ copy, neighbours }: Used): number => neighbours / (neighbours + copy);
const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

void describe("the pace of a copy", { skip: process.arch !== "x64", timeout: 120_000 }, () => {
  void it("takes no more from busy neighbours than its budget, and without it several times as much", async (t) => {
    await using task = new ArenaProcess(ARENA_PAGES, ARENA_PAGES);
    await task.started();
    await task.tell(0, "fill", 0, ARENA_PAGES, 1);
    await using neighbours = new Neighbours();
    using _normal = { [Symbol.dispose]: () => favour(0, [process.pid]) };
    await neighbours.started();
    const { pid } = task;
    const copied = { initPid: pid, targetAddress: "127.0.0.1", sentBytes: () => 0 };
    const paceBy = (dumpPlan: "measured" | "fixed"): Pace => paceOf({ dumpPlan, cpuBudget: BUDGET * 100 }, copied, () => {});
    const [alone, kept, unkept] = [nothing(), nothing(), nothing()];
    for (let window = 0; window < WINDOWS; window++) {
      await watch(neighbours, alone);
      await watch(neighbours, kept, { pid, pace: paceBy("measured") });
      await watch(neighbours, unkept, { pid, pace: paceBy("fixed") });
    }
    const [keptShare, unkeptShare] = [shareOf(kept) - shareOf(alone), shareOf(unkept) - shareOf(alone)];
    const [keptProgress, unkeptProgress] = [progressOf(kept) / progressOf(alone), progressOf(unkept) / progressOf(alone)];
    t.diagnostic(
      `the copy took ${percent(keptShare)} of the machine, without its pace ${percent(unkeptShare)}; ` +
        `its neighbours got on at ${percent(keptProgress)}, and ${percent(unkeptProgress)}`,
    );
    assert.ok(keptShare <= BUDGET + MARGIN, `the copy took ${percent(keptShare)}`);
    assert.ok(unkeptShare >= 2 * keptShare, `without its pace it took no more than ${percent(unkeptShare)}`);
    assert.ok(keptProgress >= 0.75 && unkeptProgress < keptProgress, `${percent(keptProgress)}, ${percent(unkeptProgress)}`);
  });
});
