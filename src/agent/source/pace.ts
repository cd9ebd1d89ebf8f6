/**
 * The pace at which a container is copied while it runs: looks a few times a second at how busy the host is, has the plan made anew by
 * that (src/core/dump-plan.ts), and holds the copy up where this agent uses more processor time than the plan grants.
 *
 * What somebody waits for asks for no turn, and is never held up; but what it uses counts, and the copy has to do with the rest.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { CpuAllowance } from "../../core/cpu-allowance.ts";
import { firstPlan, fixedPlan, planDump, type DumpPlan } from "../../core/dump-plan.ts";
import { loadBetween, type LoadReading } from "../../core/host-load.ts";
import { ContainerMeter, type ContainerLook } from "../../kernel/container-limits.ts";
import { interfaceRate, interfaceTo, readLoad } from "../../kernel/load.ts";
import type { PageRun } from "../../memory/page-protocol.ts";
import type { RoundSink } from "../../memory/rounds.ts";
import type { AgentConfig } from "../config.ts";

/** Between two looks at the host. */
const LOOK_MS = 250;
/** Between two looks at the container, which take longer the more processes it has. */
const CONTAINER_LOOK_MS = 1000;
/** What is shorter is waited for with the next one. */
const WAIT_MIN_MS = 1;
/** After so long, whoever waits looks whether the host has become idle. */
const WAIT_SLICE_MS = 50;

export interface Pace {
  /** As of now: it is made anew if the last one is old. */
  readonly plan: DumpPlan;
  /**
   * Awaited before each piece of work that is not urgent: returns when this agent may go on with it.
   * @param readerRate what one reader of memory reads, bytes a second, if that was measured
   */
  turn(readerRate?: number): Promise<void>;
  /** Notes for how long something was on its way to the link until that had taken it. */
  sent(sendingMs: number): void;
}

/** What is copied, and what is to be known of it. */
interface PaceSubject {
  /** Share of the machine's processor time that the copy may take where nothing is idle. */
  readonly budget: number;
  readonly container: () => ContainerLook;
  /** How many bytes have crossed so far. */
  readonly sentBytes: () => number;
  /** What the interface to the target carries, bytes a second, if it tells. */
  readonly nicRate: () => number | undefined;
}

class MeasuredPace implements Pace {
  readonly #subject: PaceSubject;
  readonly #decided: (plan: DumpPlan) => void;
  #allowance: CpuAllowance | undefined;
  #plan: DumpPlan;
  #load: LoadReading;
  #sentBytes: number;
  #container: ContainerLook;
  #containerAtMs: number;
  #readerRate: number | undefined;
  /** Since the last look. */
  #sendingMs = 0;

  /** @param decided is told of each plan that decides otherwise than the one before */
  constructor(subject: PaceSubject, decided: (plan: DumpPlan) => void) {
    this.#subject = subject;
    this.#decided = decided;
    this.#load = readLoad();
    this.#sentBytes = subject.sentBytes();
    this.#container = subject.container();
    this.#containerAtMs = this.#load.atMs;
    this.#plan = firstPlan(this.#load.cores, subject.budget);
  }

  get plan(): DumpPlan {
    if (performance.now() - this.#load.atMs >= LOOK_MS) this.#look();
    return this.#plan;
  }

  async turn(readerRate?: number): Promise<void> {
    this.#readerRate = readerRate ?? this.#readerRate;
    let waitMs = this.#waitMs();
    const untilMs = performance.now() + waitMs;
    while (waitMs >= WAIT_MIN_MS) {
      await sleep(Math.min(waitMs, WAIT_SLICE_MS));
      // If others of this agent go on working meanwhile, there would be ever more to wait for: but the copy has to get on.
      waitMs = Math.min(this.#waitMs(), untilMs - performance.now());
    }
  }

  sent(sendingMs: number): void {
    this.#sendingMs += sendingMs;
  }

  #waitMs(): number {
    const { cpuCores } = this.plan;
    const { user, system } = process.cpuUsage();
    const [nowMs, usedMs] = [performance.now(), (user + system) / 1000];
    this.#allowance ??= new CpuAllowance(nowMs, usedMs); // what was used before the copy began is not the copy's
    return this.#allowance.waitMs(nowMs, usedMs, cpuCores);
  }

  #look(): void {
    const { budget, container, nicRate, sentBytes } = this.#subject;
    const [load, bytes] = [readLoad(), sentBytes()];
    if (load.atMs - this.#containerAtMs >= CONTAINER_LOOK_MS) {
      this.#container = container();
      this.#containerAtMs = load.atMs;
    }
    const { limits, spaceBytes } = this.#container;
    const elapsedMs = load.atMs - this.#load.atMs;
    const plan = planDump(
      {
        host: loadBetween(this.#load, load),
        container: limits,
        spaceBytes,
        nicRate: nicRate(),
        sentRate: ((bytes - this.#sentBytes) / elapsedMs) * 1000,
        sendingShare: Math.min(1, this.#sendingMs / elapsedMs),
        readerRate: this.#readerRate,
        budget,
      },
      this.#plan,
    );
    if (!decidesAlike(plan, this.#plan)) this.#decided(plan);
    [this.#plan, this.#load, this.#sentBytes, this.#sendingMs] = [plan, load, bytes, 0];
  }
}

/** What there is to know of a copy before it begins. */
interface Copied {
  readonly initPid: number;
  readonly targetAddress: string;
  readonly sentBytes: () => number;
}

/** The pace of a copy that begins now, as the agent is configured. */
export function paceOf(
  { dumpPlan, cpuBudget }: Pick<AgentConfig, "dumpPlan" | "cpuBudget">,
  { initPid, targetAddress, sentBytes }: Copied,
  decided: (plan: DumpPlan) => void,
): Pace {
  if (dumpPlan === "fixed") return fixedPace(decided);
  const container = new ContainerMeter(initPid);
  let nicRate: number | undefined;
  void interfaceTo(targetAddress).then((name) => (nicRate = name === undefined ? undefined : interfaceRate(name)));
  return new MeasuredPace({ budget: cpuBudget / 100, container: () => container.look(), sentBytes, nicRate: () => nicRate }, decided);
}

/** Nothing is measured, and nobody waits. */
function fixedPace(decided: (plan: DumpPlan) => void): Pace {
  const plan = fixedPlan(readLoad().cores);
  decided(plan);
  return { plan, turn: () => Promise.resolve(), sent: () => {} };
}

/** The same for whoever sends it, piece by piece, each of which waits for its turn. */
export async function* paced<T>(pace: Pace, pieces: AsyncIterable<T>): AsyncGenerator<T, void> {
  for await (const piece of pieces) {
    await pace.turn();
    const beganAt = performance.now();
    yield piece;
    pace.sent(performance.now() - beganAt);
  }
}

/**
 * The same for pages, a chunk at a time.
 * @param readerRate what one reader reads, bytes a second, as far as that is known
 */
export function pacedPages(pace: Pace, sink: RoundSink, readerRate: () => number | undefined = () => undefined): RoundSink {
  return {
    sendPages: async (runs, read) => {
      for (const chunk of chunksOf(runs, () => pace.plan.chunkPages)) {
        await pace.turn(readerRate());
        const beganAt = performance.now();
        await sink.sendPages(chunk, read);
        pace.sent(performance.now() - beganAt);
      }
    },
    send: async (bytes) => await sink.send(bytes),
  };
}

/** @param pagesMax is asked for each chunk anew */
function* chunksOf(runs: Iterable<PageRun>, pagesMax: () => number): Generator<PageRun[], void> {
  let chunk: PageRun[] = [];
  let room = pagesMax();
  for (const { process, page, pageCount } of runs) {
    for (let at = 0; at < pageCount;) {
      const part = { process, page: page + at, pageCount: Math.min(room, pageCount - at) };
      chunk.push(part);
      at += part.pageCount;
      room -= part.pageCount;
      if (room > 0) continue;
      yield chunk;
      chunk = [];
      room = pagesMax();
    }
  }
  if (chunk.length > 0) yield chunk;
}

function decidesAlike(a: DumpPlan, b: DumpPlan): boolean {
  return (["workers", "chunkPages", "connections", "compression", "limit"] as const).every((field) => a[field] === b[field]);
}
