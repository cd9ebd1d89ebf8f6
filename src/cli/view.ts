/** Shows a running migration: a block redrawn in place on a terminal, lines elsewhere. */
import type { StreamedEvent } from "../agent/client.ts";
import { advance, logLine, NOTHING_YET, renderProgress, type Progress } from "./render-progress.ts";
import type { Output } from "./surroundings.ts";
import { fit } from "./text.ts";

/** Disposing of it leaves on the screen only what was said, and what a log has. */
export interface View extends Disposable {
  readonly progress: Progress;
  event(event: StreamedEvent): void;
  /** Tells something that stays. */
  say(line: string): void;
}

type Hint = (progress: Progress) => string;

/**
 * @param now Unix time in milliseconds
 * @param hint the last line of a block
 */
export function viewOn(output: Output, now: () => number, hint: Hint): View {
  return output.isTerminal ? new LiveView(output, now, hint) : new LogView(output);
}

const REDRAW_MS = 100;

class LiveView implements View {
  progress = NOTHING_YET;
  readonly #output: Output;
  readonly #now: () => number;
  readonly #hint: Hint;
  readonly #timer: NodeJS.Timeout;
  #lastEventAt: number;
  #drawnLines = 0;

  constructor(output: Output, now: () => number, hint: Hint) {
    this.#output = output;
    this.#now = now;
    this.#hint = hint;
    this.#lastEventAt = now();
    this.#timer = setInterval(() => this.#draw(), REDRAW_MS);
    this.#draw();
  }

  event(event: StreamedEvent): void {
    this.progress = advance(this.progress, event);
    this.#lastEventAt = this.#now();
  }

  say(line: string): void {
    this.#erase();
    this.#output.write(`${line}\n`);
    this.#draw();
  }

  #draw(): void {
    const { columns, rows, paint } = this.#output;
    const nowMs = this.progress.atMs + this.#now() - this.#lastEventAt;
    const block = [...renderProgress(this.progress, nowMs, paint), "", paint("quiet", `  ${this.#hint(this.progress)}`)];
    // What scrolled away can't be redrawn: of a block higher than the window only the end is shown.
    const lines = block.slice(-Math.max(1, rows - 1)).map((line) => fit(line, columns));
    this.#output.write(`${this.#toTop()}${lines.map((line) => `${line}\u001B[K\n`).join("")}\u001B[J`);
    this.#drawnLines = lines.length;
  }

  #erase(): void {
    this.#output.write(`${this.#toTop()}\u001B[J`);
    this.#drawnLines = 0;
  }

  /** Cursor up to where the block begins (ECMA-48: CUU), and to the line's begin. */
  #toTop(): string {
    return this.#drawnLines > 0 ? `\r\u001B[${this.#drawnLines}A` : "\r";
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#erase();
  }
}

class LogView implements View {
  progress = NOTHING_YET;
  readonly #output: Output;
  #lastLineMs = 0;
  #said = false;

  constructor(output: Output) {
    this.#output = output;
  }

  event(event: StreamedEvent): void {
    const line = logLine(this.progress, event, this.#lastLineMs);
    this.progress = advance(this.progress, event);
    if (line === undefined) return;
    this.#lastLineMs = event.atMs;
    this.say(line);
  }

  say(line: string): void {
    this.#said = true;
    this.#output.write(`${line}\n`);
  }

  /** What follows is no part of the log. */
  [Symbol.dispose](): void {
    if (this.#said) this.#output.write("\n");
  }
}
