/**
 * What a client wrote into redis, what was acknowledged, and whether what the server says agrees with it. Pure.
 *
 * Work goes in numbered steps. Step n sets one key to a value that holds n, reads it back and increments a counter, in
 * one go; the keys are used in turn. One connection's commands are executed in order and exactly once, so every reply
 * is known beforehand. A step whose replies never came may have been executed or not: both are right.
 */
import type { Command, Reply } from "./resp.ts";
import { RespError } from "./resp.ts";

/** Something that the server did wrong. */
export interface Fault {
  readonly kind: "error-reply" | "wrong-read" | "lost-write" | "double-increment";
  /** How many writes or increments, or 1. */
  readonly count: number;
  readonly message: string;
}

/** Shape of the steps. */
export interface LedgerOptions {
  /** What all keys begin with. */
  readonly prefix: string;
  readonly keyCount: number;
  readonly valueBytes: number;
}

export class Ledger {
  private readonly options: LedgerOptions;
  /** Last step begun, and last step acknowledged, of each key; 0 is none. */
  private readonly begun: Float64Array;
  private readonly acknowledged: Float64Array;
  private lastStep = 0;
  private underWay = 0;
  private counter = 0;
  /** Increments that may have been executed without our knowledge. */
  private uncertainIncrements = 0;

  constructor(options: LedgerOptions) {
    this.options = options;
    this.begun = new Float64Array(options.keyCount);
    this.acknowledged = new Float64Array(options.keyCount);
  }

  /** Begins the next step; returns its number. */
  begin(): number {
    this.lastStep += 1;
    this.underWay += 1;
    this.begun[this.lastStep % this.options.keyCount] = this.lastStep;
    return this.lastStep;
  }

  /** The commands of a step. */
  commands(step: number): Command[] {
    const key = this.key(step % this.options.keyCount);
    return [
      ["SET", key, this.value(step)],
      ["GET", key],
      ["INCR", this.counterKey],
    ];
  }

  /** Judges the replies to a step's commands. */
  judge(step: number, [set, get, incremented]: readonly Reply[]): Fault[] {
    this.underWay -= 1;
    const faults: Fault[] = [];
    if (textOf(set) === "OK") this.acknowledged[step % this.options.keyCount] = step;
    else faults.push(fault("error-reply", 1, `SET in step ${step} was answered with ${show(set)}`));
    if (textOf(get) !== this.value(step)) faults.push(fault("wrong-read", 1, `GET in step ${step} was answered with ${show(get)}`));
    faults.push(...this.judgeCounter(incremented, 1));
    return faults;
  }

  /** The connection broke: nobody knows what became of the steps under way. */
  interrupt(): void {
    this.uncertainIncrements += this.underWay;
    this.underWay = 0;
  }

  /** Indices of the keys with an acknowledged write. */
  acknowledgedKeys(): number[] {
    return [...this.acknowledged.keys()].filter((index) => this.acknowledged[index] !== 0);
  }

  /** A key's name by its index. */
  key(index: number): string {
    return `${this.options.prefix}:${index}`;
  }

  /** Name of the counter. */
  get counterKey(): string {
    return `${this.options.prefix}:counter`;
  }

  /** Judges what a key holds at the end. */
  judgeReadBack(index: number, reply: Reply | undefined): Fault[] {
    const acknowledged = this.acknowledged[index] ?? 0;
    const found = Number(textOf(reply));
    const possible = found >= acknowledged && found <= (this.begun[index] ?? 0) && found % this.options.keyCount === index;
    if (possible && textOf(reply) === this.value(found)) return [];
    return [fault("lost-write", 1, `The write of step ${acknowledged} was acknowledged, but its key holds ${show(reply)}`)];
  }

  /** Judges what the counter holds at the end. */
  judgeFinalCounter(reply: Reply | undefined): Fault[] {
    return this.judgeCounter(Number(textOf(reply) ?? 0), 0);
  }

  /** @param added increments executed since the counter was known */
  private judgeCounter(reply: Reply | undefined, added: number): Fault[] {
    if (typeof reply !== "number") return [fault("error-reply", 1, `INCR was answered with ${show(reply)}`)];
    const least = this.counter + added;
    const most = least + this.uncertainIncrements;
    this.counter = reply;
    this.uncertainIncrements = 0;
    if (reply < least) return [fault("lost-write", least - reply, `The counter is ${reply}, must be ${least}`)];
    if (reply > most) return [fault("double-increment", reply - most, `The counter is ${reply}, must be ${most}`)];
    return [];
  }

  private value(step: number): string {
    return String(step).padStart(this.options.valueBytes, "0");
  }
}

function fault(kind: Fault["kind"], count: number, message: string): Fault {
  return { kind, count, message };
}

function textOf(reply: Reply | undefined): string | undefined {
  return Buffer.isBuffer(reply) ? reply.toString("latin1") : undefined;
}

function show(reply: Reply | undefined): string {
  return reply instanceof RespError ? reply.message : JSON.stringify(textOf(reply) ?? reply);
}
