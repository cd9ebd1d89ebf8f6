/** An error as a person reads it and as a program does. */
import type { DmigrateError } from "../core/errors.ts";
import type { Paint } from "./text.ts";

/** Cause, remedy and code, a line each; an error that is our own fault brings its stack along. */
export function renderError(error: DmigrateError, paint: Paint): string[] {
  const split = error.message.lastIndexOf("; ");
  const [cause, remedy] = split === -1 ? [error.message, ""] : [error.message.slice(0, split), error.message.slice(split + 2)];
  return [
    `${paint("bad", "error:")} ${cause}`,
    ...(remedy === "" ? [] : [`       ${remedy}`]),
    paint("quiet", `       [${error.code}]`),
    ...(error.fault === "bug" ? [paint("quiet", stackOf(error))] : []),
  ];
}

function stackOf(error: DmigrateError): string {
  return (error.cause instanceof Error ? error.cause.stack : error.stack) ?? "";
}

/** The contract of `--json` when a command fails. */
export function errorJson({ code, message, fault }: DmigrateError): object {
  return { error: { code, message, fault } };
}
