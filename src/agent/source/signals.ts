/**
 * Signals that somebody has this host's engine send to a container which belongs to the target by now, as `docker stop` does: what is left
 * here is frozen and ends in any case, so the engine reports success, and they mean the one that runs.
 */
import { constants } from "node:os";
import { messageOf } from "../../core/errors.ts";
import type { SourceScope } from "./scope.ts";

/**
 * Passes signals on until there are no more, and warns of each. Not a kill, for whoever removes what is left here kills it, unless the
 * signal that stops the container came before: then it is `docker stop` that has waited long enough.
 * @param signals by their numbers
 * @param isWarning false once the migration itself removes what is left
 */
export function passSignalsOn(scope: SourceScope, signals: AsyncIterable<number>, isWarning: () => boolean): void {
  const pass = async (): Promise<void> => {
    const stopping = stopSignalOf(scope);
    let isStopping = false;
    for await (const signal of signals) {
      isStopping ||= signal === stopping;
      if (signal !== constants.signals.SIGKILL || (isStopping && isWarning())) await passOn(scope, signal);
      else if (isWarning()) scope.warn(`${sent(scope, signal)}: the one on ${scope.subject.request.target} was not`);
    }
  };
  pass().catch((error: unknown) => scope.logWarning(error, "signals could not be passed on"));
}

/** What `docker stop` sends first. */
function stopSignalOf({ subject }: SourceScope): number | undefined {
  const { StopSignal: signal } = subject.description.config;
  if (typeof signal !== "string" || signal === "") return constants.signals.SIGTERM;
  const names: Readonly<Record<string, number>> = constants.signals;
  return names[signal] ?? names[`SIG${signal}`] ?? Number(signal);
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
