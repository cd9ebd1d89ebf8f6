/**
 * Signals that somebody has this host's engine send to a container which belongs to the target by now, as `docker stop` does: what is left
 * here is frozen and ends in any case, so the engine reports success, and they mean the one that runs.
 */
import { constants } from "node:os";
import { messageOf } from "../../core/errors.ts";
import type { SourceScope } from "./scope.ts";

/**
 * Passes signals on until there are no more, and warns of each. Not a kill: whoever removes what is left here kills it.
 * @param signals by their numbers
 * @param isWarning false once the migration itself removes what is left
 */
export function passSignalsOn(scope: SourceScope, signals: AsyncIterable<number>, isWarning: () => boolean): void {
  const pass = async (): Promise<void> => {
    for await (const signal of signals) {
      if (signal !== constants.signals.SIGKILL) await passOn(scope, signal);
      else if (isWarning()) scope.warn(`${sent(scope, signal)}: it runs on on ${scope.subject.request.target}`);
    }
  };
  pass().catch((error: unknown) => scope.logWarning(error, "signals could not be passed on"));
}

async function passOn(scope: SourceScope, signal: number): Promise<void> {
  const { subject, target } = scope;
  const host = subject.request.target;
  try {
    await target.signal(subject.id, signal);
    scope.warn(`${sent(scope, signal)}: it was passed on to ${host}`);
  } catch (error) {
    scope.warn(`${sent(scope, signal)}, and did not get it on ${host} (${messageOf(error)}); \`docker kill --signal\` there sends it`);
  }
}

function sent({ context, subject }: SourceScope, signal: number): string {
  const name = Object.entries(constants.signals).find(([, number]) => number === signal)?.[0] ?? `signal ${signal}`;
  return `${subject.description.name} was sent ${name} on ${context.self()} after the handover`;
}
