/** Numbers, tables and colours as a terminal shows them. */
import { stripVTControlCharacters, styleText } from "node:util";

/** What a text is about; each has its colour. */
export type Tone = "good" | "warning" | "bad" | "quiet" | "strong" | "downtime" | "busy";

/** Gives a text the colour of its tone, or leaves it as it is. */
export type Paint = (tone: Tone, text: string) => string;

const COLOURS = {
  good: "green",
  warning: "yellow",
  bad: "red",
  quiet: "gray",
  strong: "bold",
  downtime: "magenta",
  busy: "cyan",
} as const satisfies Record<Tone, Parameters<typeof styleText>[0]>;

export const colourless: Paint = (_tone, text) => text;
export const coloured: Paint = (tone, text) => styleText(COLOURS[tone], text, { validateStream: false });

/** How many columns a text takes. */
export function widthOf(text: string): number {
  return stripVTControlCharacters(text).length;
}

/** Cuts a line that is wider than the terminal; a line that is cut loses its colours. */
export function fit(line: string, columns: number): string {
  return widthOf(line) <= columns ? line : `${stripVTControlCharacters(line).slice(0, columns - 1)}…`;
}

export function padEnd(text: string, columns: number): string {
  return text + " ".repeat(Math.max(0, columns - widthOf(text)));
}

export function padStart(text: string, columns: number): string {
  return " ".repeat(Math.max(0, columns - widthOf(text))) + text;
}

/** `0.4 ms`, `112 ms`, `3.42 s`, `2 min 5 s`, `1 h 2 min`. */
export function duration(milliseconds: number): string {
  if (milliseconds < 9.95) return `${Number(milliseconds.toFixed(1))} ms`;
  if (milliseconds < 999.5) return `${Math.round(milliseconds)} ms`;
  if (milliseconds < 59_995) return `${(milliseconds / 1000).toFixed(2)} s`;
  const seconds = Math.round(milliseconds / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Decimal units: `0 B`, `812 B`, `1.3 MB`. */
export function bytes(size: number): string {
  let scaled = size;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (scaled < 999.95) return `${unit === "B" ? Math.round(scaled) : scaled.toFixed(1)} ${unit}`;
    scaled /= 1000;
  }
  return `${scaled.toFixed(1)} TB`;
}

/** `148,249`. */
export function count(number: number): string {
  return number.toLocaleString("en");
}

/** `1 page`, `2 pages`. */
export function plural(number: number, noun: string): string {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** Lines of aligned columns, two spaces between them; the first row is the heading. */
export function table(heading: readonly string[], rows: readonly (readonly string[])[], paint: Paint): string[] {
  const widths = heading.map((title, column) => Math.max(...[title, ...rows.map((row) => row[column] ?? "")].map(widthOf)));
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, column) => padEnd(cell, widths[column] ?? 0))
      .join("  ")
      .trimEnd();
  return [paint("quiet", line(heading)), ...rows.map(line)];
}

/** Where spans lie on a line that is `columns` wide and stands for `fromMs` to `toMs`; none is invisible. */
export function bars(
  spans: readonly { readonly startMs: number; readonly endMs: number }[],
  axis: { readonly fromMs: number; readonly toMs: number },
  columns: number,
): string {
  const perColumn = Math.max(axis.toMs - axis.fromMs, Number.MIN_VALUE) / columns;
  const line = Array.from({ length: columns }, () => " ");
  for (const { startMs, endMs } of spans) {
    const first = Math.min(columns - 1, Math.round((startMs - axis.fromMs) / perColumn));
    const last = Math.max(first + 1, Math.min(columns, Math.round((endMs - axis.fromMs) / perColumn)));
    line.fill("█", first, last);
  }
  return line.join("").trimEnd();
}
