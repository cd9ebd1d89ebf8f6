/**
 * What lay beneath an error.
 */
import { ConnectError } from "@connectrpc/connect";
import { messageOf } from "../core/errors.ts";

/** An error and its causes, the deepest last. */
export function causesOf(error: unknown): Error[] {
  const all: Error[] = [];
  for (let at = error; at instanceof Error && !all.includes(at); at = at.cause) all.push(at);
  return all;
}

/** The message of the deepest cause: what failed, without what wrapped it. */
export function reasonOf(error: unknown): string {
  const deepest = causesOf(error).at(-1) ?? error;
  return deepest instanceof ConnectError ? deepest.rawMessage : messageOf(deepest);
}
