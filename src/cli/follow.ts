/** The commands that follow a migration from its beginning to its report: migrate and watch. */
import type { ControlClient, StreamedEvent } from "../agent/client.ts";
import { DmigrateError, ERROR_CODES, isErrorCode } from "../core/errors.ts";
import { hostName, migrationId, type MigrationId } from "../core/ids.ts";
import type { Report, RequestableMode } from "../core/migration.ts";
import { answer, type Command, type Invocation } from "./invocation.ts";
import type { Progress } from "./render-progress.ts";
import { renderReport } from "./render-report.ts";
import { NOWHERE } from "./surroundings.ts";
import { viewOn, type View } from "./view.ts";

export interface MigrateOptions {
  readonly mode: RequestableMode;
  readonly maxDowntime?: number;
  /** Bytes a second. */
  readonly bandwidth?: number;
  readonly keepSource: boolean;
  readonly verify: boolean;
  /** Return as soon as the migration has begun. */
  readonly detach: boolean;
}

/** Begins a stream of events; the migration goes on when the stream is ended by the signal. */
type Begin = (signal: AbortSignal) => AsyncIterable<StreamedEvent>;

/** What a shell is told by a program that Ctrl-C ended: 128 and the signal's number. */
const INTERRUPTED = 130;

/** `dmigrate migrate`: Ctrl-C cancels; after the handover, or a second time, it leaves. */
export const migrate: Command<[container: string, host: string, options: MigrateOptions]> = async (
  invocation,
  container,
  host,
  options,
) => {
  const { mode, maxDowntime, bandwidth, keepSource, verify, detach } = options;
  const limits = {
    ...(maxDowntime === undefined ? {} : { maxDowntimeMs: maxDowntime }),
    ...(bandwidth === undefined ? {} : { bytesPerSecond: bandwidth }),
  };
  const request = { container, target: hostName(host), mode, keepSource, verify, ...limits };
  const begin: Begin = (signal) => invocation.client.migrate(request, { signal });
  if (detach) return await beginOnly(invocation, begin);

  const end = await follow(invocation, begin, "cancel");
  if (end.kind === "left") {
    if (invocation.json && end.migration !== undefined) answer(invocation, partiesOf(end.migration), () => []);
    return INTERRUPTED;
  }
  answer(invocation, end.report, (value, { columns, paint }) => renderReport(value, columns, paint));
  return exitCodeOf(end.report);
};

/** `dmigrate watch`: Ctrl-C leaves. With --json, an event a line. */
export const watch: Command<[id: string]> = async (invocation, text) => {
  const id = migrationId(text);
  const end = await follow(invocation, (signal) => printed(invocation, invocation.client.watch(id, { signal })), "leave");
  if (end.kind === "left") return INTERRUPTED;
  if (!invocation.json) answer(invocation, end.report, (value, { columns, paint }) => renderReport(value, columns, paint));
  return exitCodeOf(end.report);
};

async function* printed({ json, out }: Invocation, events: AsyncIterable<StreamedEvent>): AsyncGenerator<StreamedEvent> {
  for await (const event of events) {
    if (json) out.write(`${JSON.stringify(event)}\n`);
    yield event;
  }
}

async function beginOnly(invocation: Invocation, begin: Begin): Promise<number> {
  for await (const event of begin(new AbortController().signal)) {
    if (event.kind !== "began") continue;
    answer(invocation, partiesOf(event), ({ id, container, source, target }) => [
      `${container} is migrating from ${source} to ${target}: ${id}`,
      `\`dmigrate watch ${id}\` shows how it goes, \`dmigrate cancel ${id}\` ends it.`,
    ]);
    return 0;
  }
  throw new DmigrateError("INTERNAL", "The agent ended the stream of events before the migration began; its log may tell why");
}

type Migration = NonNullable<Progress["migration"]>;

/** What is told in JSON of a migration that goes on. */
function partiesOf({ id, container, source, target }: Migration): Migration {
  return { id, container, source, target };
}

/** What a Ctrl-C does. */
type Interrupt = "cancel" | "leave";

/** Why nobody follows any more: the migration ended, or the user left before. */
type End = { readonly kind: "ended"; readonly report: Report } | { readonly kind: "left"; readonly migration: Migration | undefined };

/**
 * Shows a migration until it ended, or until the user left and was told what becomes of it.
 * @param firstInterrupt what the first Ctrl-C does unless the container belongs to the target by then; any other leaves
 */
async function follow(invocation: Invocation, begin: Begin, firstInterrupt: Interrupt): Promise<End> {
  const { json, out, err, now, client } = invocation;
  // With --json standard output holds JSON alone; who waits at a terminal still sees how it goes.
  const output = !json ? out : err.isTerminal ? err : NOWHERE;
  const leaving = new AbortController();
  let interrupts = 0;
  /** Why it can't be cancelled any more. */
  let tooLate: string | undefined;
  const handedOver = ({ phases }: Progress): boolean => tooLate !== undefined || phases.has("post-copy") || phases.has("finish");
  const nextInterrupt = (progress: Progress): Interrupt => (interrupts > 0 || handedOver(progress) ? "leave" : firstInterrupt);
  const isBeingCancelled = (progress: Progress): boolean => firstInterrupt === "cancel" && interrupts > 0 && !handedOver(progress);
  using view = viewOn(output, now, (progress) => hint(progress, nextInterrupt(progress), isBeingCancelled(progress)));
  const cancelOrLeave = async (): Promise<void> => {
    tooLate = await tryCancel(client, view, leaving.signal);
    if (tooLate !== undefined) leaving.abort();
  };
  using _keyboard = invocation.onInterrupt(() => {
    const asked = nextInterrupt(view.progress);
    interrupts += 1;
    if (asked === "leave") leaving.abort();
    else void cancelOrLeave();
  });

  try {
    for await (const event of begin(leaving.signal)) {
      view.event(event);
      if (event.kind === "began" && interrupts > 0) void cancelOrLeave(); // asked for before there was an id
      if (event.kind === "ended") return { kind: "ended", report: event.report };
    }
    if (!leaving.signal.aborted)
      throw new DmigrateError("AGENT_UNREACHABLE", "The agent ended the stream before the migration ended; see `dmigrate list`");
  } catch (error) {
    if (!leaving.signal.aborted) throw agentLost(error, view.progress.migration, handedOver(view.progress));
  } finally {
    leaving.abort(); // whatever is still being asked, nobody waits for
  }
  const { migration } = view.progress;
  const text = farewell(migration, handedOver(view.progress), tooLate);
  if (output === NOWHERE) err.write(`${text}\n`);
  else view.say(text);
  return { kind: "left", migration };
}

/**
 * Asks the agent to cancel, which alone knows whether it is too late, and tells of it as long as somebody follows. Returns the agent's
 * reason if it is: the migration goes on.
 */
async function tryCancel(client: ControlClient, view: View, left: AbortSignal): Promise<string | undefined> {
  const { migration } = view.progress;
  if (migration === undefined) return undefined;
  const id = migrationId(migration.id);
  view.say("Cancelling. Ctrl-C again leaves without waiting.");
  try {
    await client.cancel(id, { takeBack: false });
  } catch (thrown) {
    const error = DmigrateError.from(thrown);
    if (error.code === "CANCEL_TOO_LATE") return (await goesOn(client, id)) ? error.message : undefined;
    if (!left.aborted) view.say(`Cannot cancel: ${error.message}`);
  }
  return undefined;
}

/** False if it has ended by now: then its events are about to tell. */
async function goesOn(client: ControlClient, id: MigrationId): Promise<boolean> {
  try {
    await client.report(id);
    return false;
  } catch (error) {
    return DmigrateError.from(error).code === "MIGRATION_IN_PROGRESS";
  }
}

/** What is known of the container when the agent that migrated it is gone. */
function agentLost(thrown: unknown, migration: Migration | undefined, handedOver: boolean): DmigrateError {
  const error = DmigrateError.from(thrown);
  if (migration === undefined || error.code !== "AGENT_UNREACHABLE") return error;
  const { id, container, source, target } = migration;
  const whose = handedOver
    ? `${container} belongs to ${target}, where what touches memory that has not crossed waits`
    : `${container} keeps running on ${source} unless it was handed over just now; it never runs twice`;
  return new DmigrateError(
    error.code,
    `The agent ended during migration ${id}: ${whose}; start it again with \`dmigrate agent\`, which brings the migration to its end, ` +
      `then \`dmigrate report ${id}\` says who runs ${container}`,
    error,
  );
}

/** What becomes of a migration that its user leaves. */
function farewell(migration: Migration | undefined, handedOver: boolean, tooLate: string | undefined): string {
  if (migration === undefined) return "Left.";
  const { id, container, target } = migration;
  if (tooLate !== undefined) return `Left, and the migration goes on: ${tooLate}.`;
  return handedOver
    ? `Left: ${container} belongs to ${target} already, and the migration goes on. \`dmigrate watch ${id}\` follows it.`
    : `Left: the agent goes on alone. \`dmigrate watch ${id}\` shows what becomes of the migration.`;
}

/** What Ctrl-C would do now. */
function hint({ migration }: Progress, interrupt: Interrupt, isBeingCancelled: boolean): string {
  if (isBeingCancelled) return "Ctrl-C leaves; the migration is being cancelled.";
  if (interrupt === "leave") return "Ctrl-C leaves; the migration goes on.";
  return migration === undefined
    ? "Ctrl-C cancels."
    : `Ctrl-C cancels; ${migration.container} then goes on running on ${migration.source}.`;
}

function exitCodeOf({ outcome, error }: Report): number {
  if (outcome === "completed") return 0;
  const code = error !== undefined && isErrorCode(error.code) ? error.code : "INTERNAL";
  return ERROR_CODES[code].exitCode;
}
