/**
 * Rounds of memory that has to be on the target at the handover, in every mode: as far as the target keeps them.
 */
import { DmigrateError, messageOf } from "../../core/errors.ts";
import type { RoundSink } from "../../memory/rounds.ts";
import type { ChannelKind } from "../channels.ts";
import { sendStream } from "../link.ts";
import { pacedPages } from "./pace.ts";
import type { SourceScope } from "./scope.ts";

/** Rounds go on while they have more than this, and each at most half of what the one before had. */
const SETTLED_BYTES = 8 << 20;
const SHRUNK = 0.5;

/** Sends rounds until what was written meanwhile is little or does not get less. */
export async function untilSettled(round: () => Promise<number>): Promise<void> {
  let before = Infinity;
  for (let sent = await round(); sent > SETTLED_BYTES && sent <= before * SHRUNK; sent = await round()) before = sent;
}

/**
 * Sends a round. Returns how many bytes that were.
 * @param giveUp is called if the target has no room for it, and keeps nothing: there will be no further round
 */
export async function sendRound(
  scope: SourceScope,
  kind: ChannelKind,
  round: (sink: RoundSink) => Promise<void>,
  giveUp: () => void,
): Promise<number> {
  const channel = await scope.channel(kind, "memory");
  try {
    await sendStream(channel, () => round(pacedPages(scope.pace, channel)));
    await channel.close();
  } catch (error) {
    if (DmigrateError.from(error).code !== "NO_SPACE") throw error;
    scope.warn(`${messageOf(error)}: that memory crosses while the container stands still`);
    giveUp();
  }
  return channel.counts.sent;
}
