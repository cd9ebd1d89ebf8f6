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

/** What libraries say of a connection that is gone (http2 of Node, connect-node), and what users understand. */
const PLAIN: readonly (readonly [RegExp, string])[] = [
  [/^PING timed out/, "it gives no sign of life"],
  [/^http\/2 stream closed|pending stream has been canceled|^premature close/i, "the connection was closed"],
];

/** The message of the deepest cause: what failed, without what wrapped it, in plain words. */
export function reasonOf(error: unknown): string {
  const deepest = causesOf(error).at(-1) ?? error;
  const message = deepest instanceof ConnectError ? deepest.rawMessage : messageOf(deepest);
  return PLAIN.find(([pattern]) => pattern.test(message))?.[1] ?? message;
}
