/**
 * Signals that somebody has this host's engine send to a container which belongs to the target by now, as `docker stop` does: what is left
 * here is frozen and ends in any case, so the engine reports success, and they mean the one that runs.
 */
import { constants } from "node:os";
import { messageOf } from "../../core/errors.ts";
import type { HandedOver } from "./handed-over.ts";

/** What this needs to know of the migration. */
type Handed = Pick<HandedOver, "context" | "id" | "container" | "target" | "calls" | "warn">;

/**
 * Passes signals on until there are no more, and warns of each. Not a kill, for whoever removes what is left here kills it, unless the
 * signal that stops the container came before: then it is `docker stop` that has waited long enough.
 * @param stopSignal the container's, as its description has it
 * @param signals by their numbers
 * @param isWarning false once the migration itself removes what is left
 */
export function passSignalsOn(handed: Handed, stopSignal: unknown, signals: AsyncIterable<number>, isWarning: () => boolean): void {
  const { context, id, target, warn } = handed;
  const pass = async (): Promise<void> => {
    const stopping = numberOf(stopSignal);
    let isStopping = false;
    for await (const signal of signals) {
      isStopping ||= signal === stopping;
      if (signal !== constants.signals.SIGKILL || (isStopping && isWarning())) await passOn(handed, signal);
      else if (isWarning()) warn(`${sent(handed, signal)}: the one on ${target} was not`);
    }
  };
  pass().catch((error: unknown) => context.log.warn({ err: error, migration: id }, "signals could not be passed on"));
}

/** What `docker stop` sends first. */
function numberOf(signal: unknown): number | undefined {
  if (typeof signal !== "string" || signal === "") return constants.signals.SIGTERM;
  const names: Readonly<Record<string, number>> = constants.signals;
  return names[signal] ?? names[`SIG${signal}`] ?? Number(signal);
}

async function passOn(handed: Handed, signal: number): Promise<void> {
  const { id, target, calls, warn } = handed;
  try {
    await calls.signal(id, signal);
    warn(`${sent(handed, signal)}: it was passed on to ${target}`);
  } catch (error) {
    warn(`${sent(handed, signal)}, and did not get it on ${target} (${messageOf(error)}); \`docker kill --signal\` there sends it`);
  }
}

function sent({ context, container }: Handed, signal: number): string {
  const name = Object.entries(constants.signals).find(([, number]) => number === signal)?.[0] ?? `signal ${signal}`;
  return `${container} was sent ${name} on ${context.self()} after the handover`;
}
