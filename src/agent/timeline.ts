/**
 * The time line of a migration: its phases, told as they begin and end, the downtime, and the steps inside that.
 */
import type { MigrationEvent, Phase, PhaseSpan, Step } from "../core/migration.ts";

/** Notes what happened when, in milliseconds since it was made. */
export class Timeline {
  readonly #beganAt = performance.now();
  readonly #phases: PhaseSpan[] = [];
  readonly #steps: Step[] = [];
  readonly #tell: (event: MigrationEvent) => void;
  #phase: Phase = "preflight";
  #frozenAtMs: number | undefined;
  #resumedAtMs: number | undefined;

  constructor(tell: (event: MigrationEvent) => void) {
    this.#tell = tell;
  }

  /** Milliseconds since the beginning. */
  now(): number {
    return performance.now() - this.#beganAt;
  }

  /** The phase that began last. */
  get current(): Phase {
    return this.#phase;
  }

  get phases(): readonly PhaseSpan[] {
    return this.#phases;
  }

  get steps(): readonly Step[] {
    return this.#steps;
  }

  /** Notes that the container stands still from now on; returns the time. */
  froze(): number {
    this.#frozenAtMs = this.now();
    return this.#frozenAtMs;
  }

  /** Notes that the container runs again, on whichever host. */
  resumed(): void {
    this.#resumedAtMs = this.now();
  }

  /** For how long the container has stood still. */
  get downtimeMs(): number {
    return this.#frozenAtMs === undefined ? 0 : (this.#resumedAtMs ?? this.now()) - this.#frozenAtMs;
  }

  /** Runs a phase between its two events; the only place that emits them. */
  async phase<T>(name: Phase, body: () => Promise<T>): Promise<T> {
    const startMs = this.now();
    this.#phase = name;
    this.#tell({ kind: "phase-began", atMs: startMs, phase: name });
    try {
      return await body();
    } finally {
      const endMs = this.now();
      this.#phases.push({ name, startMs, endMs });
      this.#tell({ kind: "phase-ended", atMs: endMs, phase: name });
    }
  }

  /** Runs a step of the freeze or the handover and notes how long it took. */
  async step<T>(name: string, body: () => Promise<T> | T): Promise<T> {
    const startMs = this.now();
    try {
      return await body();
    } finally {
      this.#steps.push({ name, startMs, endMs: this.now() });
    }
  }

  /** Enters the steps of the other host, whose clock began at `startMs` of this one. */
  adopt(steps: readonly Step[], startMs: number): void {
    for (const step of steps) this.#steps.push({ name: step.name, startMs: startMs + step.startMs, endMs: startMs + step.endMs });
  }
}
