/**
 * What a benchmark prints: a row for each number, with its goal beside it.
 */

/** A number that was measured just now. */
export interface Row {
  /** No other row of its benchmark has it. */
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  /** What it is to be, like `<= 200`, or `none`. */
  readonly goal: string;
  readonly met: boolean;
}

/** A value that is to be this large at most. */
export function atMost(name: string, value: number, unit: string, limit: number): Row {
  return { name, value, unit, goal: `<= ${limit}`, met: value <= limit };
}

/** A value that is to be this large at least. */
export function atLeast(name: string, value: number, unit: string, limit: number): Row {
  return { name, value, unit, goal: `>= ${limit}`, met: value >= limit };
}

/** A value to which others are compared. */
export function told(name: string, value: number, unit: string): Row {
  return { name, value, unit, goal: "none", met: true };
}

/** What `--json` prints. Throws RangeError if that would not tell what was measured: of two rows of one name, or a value that is none. */
export function jsonOf(rows: readonly Row[]): string {
  const names = rows.map(({ name }) => name);
  const bad = rows.find(({ name, value }, at) => names.indexOf(name) !== at || !Number.isFinite(value));
  if (bad !== undefined) throw new RangeError(`"${bad.name}" is there twice, or has no value: ${bad.value}`);
  return `${JSON.stringify({ rows }, null, 2)}\n`;
}

/** Lines of text, a row each. */
export function renderRows(rows: readonly Row[]): string[] {
  const nameWidth = Math.max(...rows.map(({ name }) => name.length));
  return rows.map(({ name, value, unit, goal, met }) => {
    const verdict = goal === "none" ? "" : met ? "met" : "MISSED";
    const text = value >= 100 ? value.toFixed(0) : value.toPrecision(3);
    return `${verdict.padEnd(6)} ${name.padEnd(nameWidth)}  ${text.padStart(8)} ${unit.padEnd(6)} goal ${goal}`;
  });
}

/** The value in the middle, or at another share of all. Throws on none. */
export function quantile(values: readonly number[], share = 0.5): number {
  const sorted = values.toSorted((a, b) => a - b);
  const value = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
  if (value === undefined) throw new RangeError("nothing was measured");
  return value;
}

/** The median of something of each. */
export function medianOf<T>(all: readonly T[], something: (one: T) => number): number {
  return quantile(all.map(something));
}
