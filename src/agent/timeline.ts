/**
 * The time line of a migration: its phases, told as they begin and end, the downtime, and the steps inside that.
 *
 * The other host's steps come with its answers; its clock is taken to begin when it was called.
 */
import type { MigrationEvent, Phase, PhaseSpan, Step } from "../core/migration.ts";

/** Steps as they are taken, in milliseconds since this was made. */
export class Steps {
  readonly #beganAt = performance.now();
  readonly all: Step[] = [];

  now(): number {
    return performance.now() - this.#beganAt;
  }

  /** Takes a step and notes how long it took. */
  async take<T>(name: string, body: () => Promise<T> | T): Promise<T> {
    const startMs = this.now();
    try {
      return await body();
    } finally {
      this.all.push({ name, startMs, endMs: this.now() });
    }
  }
}

/** Notes what happened when, in milliseconds since it was made. */
export class Timeline {
  readonly #phases: PhaseSpan[] = [];
  readonly #steps = new Steps();
  readonly #tell: (event: MigrationEvent) => void;
  #phase: Phase = "preflight";
  #frozenAtMs: number | undefined;
  #resumedAtMs: number | undefined;

  constructor(tell: (event: MigrationEvent) => void) {
    this.#tell = tell;
  }

  /** Milliseconds since the beginning. */
  now(): number {
    return this.#steps.now();
  }

  /** The phase that began last. */
  get current(): Phase {
    return this.#phase;
  }

  get phases(): readonly PhaseSpan[] {
    return this.#phases;
  }

  get steps(): readonly Step[] {
    return this.#steps.all;
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

  /** Takes a step of the freeze or the handover and notes how long it took. */
  step<T>(name: string, body: () => Promise<T> | T): Promise<T> {
    return this.#steps.take(name, body);
  }

  /** Enters the steps of the other host, whose clock began at `startMs` of this one. */
  adopt(steps: readonly Step[], startMs: number): void {
    this.#steps.all.push(...shifted(steps, startMs));
  }

  /**
   * Enters what a step that was taken was made of.
   * @param zero what the times of its parts count from
   */
  compose(name: string, parts: readonly Step[], zero: "startMs" | "endMs"): void {
    this.#steps.all.splice(0, Infinity, ...composed(this.#steps.all, name, parts, zero));
  }
}

/** Steps, with what the last one of that name was made of; see `Timeline.compose`. */
export function composed(steps: readonly Step[], name: string, parts: readonly Step[], zero: "startMs" | "endMs"): Step[] {
  const last = parts.length === 0 ? undefined : steps.findLast((step) => step.name === name);
  return steps.map((step) => (step === last ? { ...step, steps: shifted(parts, step[zero]) } : step));
}

function shifted(steps: readonly Step[], byMs: number): Step[] {
  return steps.map(({ name, startMs, endMs, steps: parts }) => {
    return { name, startMs: startMs + byMs, endMs: endMs + byMs, ...(parts === undefined ? {} : { steps: shifted(parts, byMs) }) };
  });
}
