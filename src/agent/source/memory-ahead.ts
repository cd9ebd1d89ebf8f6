/**
 * Memory that is copied while the container runs: how many rounds there are, and what becomes of a container for which none are enough.
 */
import { rmSync, writeFileSync } from "node:fs";
import { afterRounds, rateOf, WHILE_IT_HELPS, type Round } from "../../core/convergence.ts";
import { isWholeAtHandover, type MemoryRound } from "../../core/migration.ts";
import { notConverging, preCopyGoal, type Prediction } from "../../core/prediction.ts";
import type { Freezer } from "../../criu/freezer.ts";
import { anonymousBytesOf, pidsIn, runningTasksIn } from "../../kernel/tasks.ts";
import { PAGE_BYTES } from "../../memory/page-protocol.ts";
import { pageCountOf } from "../../memory/page-ranges.ts";
import type { Trackers } from "../../memory/tracking/trackers.ts";
import { MemoryRounds, type Tasks } from "../../memory/rounds.ts";
import { CHANNELS } from "../channels.ts";
import { sendStream } from "../link.ts";
import { migrationFolder } from "../migration-folder.ts";
import { pacedPages } from "./pace.ts";
import { heldMarker } from "./run-on.ts";
import type { SourceScope } from "./scope.ts";

/** Of one migration. Disposing of it leaves nothing in the tasks. */
export class MemoryAhead implements Disposable {
  readonly rounds: MemoryRounds;
  readonly #scope: SourceScope;
  readonly #cgroup: string;
  readonly #prediction: Prediction;
  readonly #spans: { readonly startMs: number; readonly endMs: number }[] = [];

  /** @param cgroup the folder of that of its tasks */
  constructor(scope: SourceScope, cgroup: string, tasks: Tasks, trackers: Trackers, prediction: Prediction) {
    this.rounds = new MemoryRounds(tasks, trackers.track, () => scope.pace.plan);
    this.#scope = scope;
    this.#cgroup = cgroup;
    this.#prediction = prediction;
  }

  /** Those that have crossed so far. */
  get told(): MemoryRound[] {
    return this.#spans.map((span, nth) => ({ ...span, ...(this.rounds.counts[nth] ?? { pageCount: 0, writtenCount: 0 }) }));
  }

  /**
   * Copies all of it, then what was written meanwhile, until that is little or does not get less. Throws NOT_CONVERGING.
   * @param expect is told before each round how many bytes it has, about
   */
  async copy(expect: (nextBytes: number) => void): Promise<void> {
    await this.#converge(expect);
    const { unseenCount } = this.rounds;
    if (unseenCount > 0)
      this.#scope.warn(`The memory of ${unseenCount} process(es) with asynchronous I/O is not copied ahead: it crosses later`);
  }

  /** Copies what was written since, just before the freeze. Throws NOT_CONVERGING. */
  async catchUp(): Promise<void> {
    if (isWholeAtHandover(this.#scope.mode)) await this.#converge();
    else await this.#round();
  }

  async #converge(expect: (nextBytes: number) => void = () => {}): Promise<void> {
    const { mode, subject } = this.#scope;
    const { measured, maxDowntimeMs } = this.#prediction;
    const rounds: Round[] = [];
    for (;;) {
      expect(rounds.at(-1)?.leftBytes ?? measured.copyableBytes);
      rounds.push(await this.#round());
      const now = { ...measured, bytesPerSecond: rateOf(rounds) ?? measured.bytesPerSecond };
      const goal = isWholeAtHandover(mode) ? preCopyGoal(now, maxDowntimeMs) : WHILE_IT_HELPS;
      const verdict = afterRounds(rounds, goal);
      if (verdict === "no-use" && isWholeAtHandover(mode)) throw notConverging(subject.description.name, rounds, goal, now);
      if (verdict !== "another") return;
    }
  }

  async #round(): Promise<Round> {
    const { timeline } = this.#scope;
    const startMs = timeline.now();
    const channel = await this.#scope.channel(CHANNELS.memory, "memory");
    await sendStream(channel, () => this.rounds.round(pacedPages(this.#scope.pace, channel, () => this.rounds.readerRate)));
    await channel.close();
    const endMs = timeline.now();
    this.#spans.push({ startMs, endMs });
    return { sentBytes: channel.counts.sent, ms: endMs - startMs, leftBytes: this.#leftBytes() };
  }

  /** What was written since the last round began, and all memory of processes that can't be copied ahead: about, for they run. */
  #leftBytes(): number {
    const tasks = runningTasksIn(this.#cgroup);
    const told = this.rounds.told(tasks);
    return [...tasks].reduce((sum, [process, pid]) => {
      const ranges = told.get(process);
      return sum + (ranges === undefined ? anonymousBytesOf(pid) : pageCountOf(ranges) * PAGE_BYTES);
    }, 0);
  }

  [Symbol.dispose](): void {
    this.rounds[Symbol.dispose]();
  }
}

/** The tasks of the container, which stand still for a moment when they are told to, unless somebody has paused them anyway. */
export function tasksToHold(scope: SourceScope, freezer: Freezer): Tasks {
  const { context, subject } = scope;
  scope.note({ volumes: [], heldPid: subject.initPid });
  const marker = heldMarker(migrationFolder(context.config, subject.id)); // for who lets them go on if this agent can't
  return {
    pids: () => pidsIn(freezer.folder),
    hold: async () => {
      if (await freezer.isFrozen()) return { [Symbol.asyncDispose]: () => Promise.resolve() };
      writeFileSync(marker, "");
      await using held = new AsyncDisposableStack();
      held.defer(async () => rmSync(marker));
      await freezer.freeze();
      held.defer(() => freezer.thaw());
      return held.move();
    },
  };
}
