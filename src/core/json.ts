/**
 * JSON whose integers survive: those of Docker and runc are 64 bits wide (an unlimited ulimit is 18446744073709551615), JavaScript's 53.
 */

declare global {
  // ECMAScript 2026, in Node since 21; TypeScript's libraries do not know them yet.
  interface JSON {
    parse(text: string, reviver: (key: string, value: unknown, context: { readonly source?: string }) => unknown): unknown;
    rawJSON(text: string): object;
  }
}

const INTEGER = /^-?\d+$/;

/** Parses JSON; an integer that a double can't hold stays its own text, opaque until `stringifyExact`. Throws SyntaxError. */
export function parseExact(text: string): unknown {
  return JSON.parse(text, (_key, value, { source }) =>
    typeof value === "number" && source !== undefined && INTEGER.test(source) && !Number.isSafeInteger(value)
      ? JSON.rawJSON(source)
      : value,
  );
}

/** The inverse of `parseExact`. */
export function stringifyExact(value: unknown): string {
  return JSON.stringify(value);
}
