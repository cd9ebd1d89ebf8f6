/** The commands that follow a migration from its beginning to its report: migrate and watch. */
import type { ControlClient, StreamedEvent } from "../agent/client.ts";
import { DmigrateError, ERROR_CODES, isErrorCode } from "../core/errors.ts";
import { hostName, migrationId } from "../core/ids.ts";
import type { Mode, Report } from "../core/migration.ts";
import { answer, type Command, type Invocation } from "./invocation.ts";
import type { Progress } from "./render-progress.ts";
import { renderReport } from "./render-report.ts";
import { NOWHERE } from "./surroundings.ts";
import { viewOn, type View } from "./view.ts";

export interface MigrateOptions {
  readonly mode: Mode;
  readonly keepSource: boolean;
  /** Return as soon as the migration has begun. */
  readonly detach: boolean;
}

/** Begins a stream of events; the migration goes on when the stream is ended by the signal. */
type Begin = (signal: AbortSignal) => AsyncIterable<StreamedEvent>;

/** What a shell is told by a program that Ctrl-C ended: 128 and the signal's number. */
const INTERRUPTED = 130;

/** `dmigrate migrate`: Ctrl-C cancels, a second one leaves. */
export const migrate: Command<[container: string, host: string, options: MigrateOptions]> = async (
  invocation,
  container,
  host,
  options,
) => {
  const { mode, keepSource, detach } = options;
  const request = { container, target: hostName(host), mode, keepSource };
  const begin: Begin = (signal) => invocation.client.migrate(request, { signal });
  if (detach) return await beginOnly(invocation, begin);

  const report = await follow(invocation, begin, "cancel");
  if (report === undefined) return INTERRUPTED;
  answer(invocation, report, (value, { columns, paint }) => renderReport(value, columns, paint));
  return exitCodeOf(report);
};

/** `dmigrate watch`: Ctrl-C leaves. With --json, an event a line. */
export const watch: Command<[id: string]> = async (invocation, text) => {
  const id = migrationId(text);
  const report = await follow(invocation, (signal) => printed(invocation, invocation.client.watch(id, { signal })), "leave");
  if (report === undefined) return INTERRUPTED;
  if (!invocation.json) answer(invocation, report, (value, { columns, paint }) => renderReport(value, columns, paint));
  return exitCodeOf(report);
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
    const { id, container, source, target } = event;
    answer(invocation, { id, container, source, target }, () => [
      `${container} is migrating from ${source} to ${target}: ${id}`,
      `\`dmigrate watch ${id}\` shows how it goes, \`dmigrate cancel ${id}\` ends it.`,
    ]);
    return 0;
  }
  throw new DmigrateError("INTERNAL", "The agent ended the stream of events before the migration began; its log may tell why");
}

/**
 * Shows a migration until it ended; undefined if the user left before.
 * @param firstInterrupt what the first Ctrl-C does; any further one leaves
 */
async function follow(invocation: Invocation, begin: Begin, firstInterrupt: "cancel" | "leave"): Promise<Report | undefined> {
  const { json, out, err, now, client } = invocation;
  // With --json standard output holds JSON alone; who waits at a terminal still sees how it goes.
  const output = !json ? out : err.isTerminal ? err : NOWHERE;
  const leaving = new AbortController();
  let interrupts = 0;
  using view = viewOn(output, now, (progress) => hint(progress, interrupts > 0 ? "leave" : firstInterrupt));
  using _keyboard = invocation.onInterrupt(() => {
    interrupts += 1;
    if (interrupts > 1 || firstInterrupt === "leave") leaving.abort();
    else void cancel(client, view);
  });

  try {
    for await (const event of begin(leaving.signal)) {
      view.event(event);
      if (event.kind === "began" && interrupts > 0) void cancel(client, view); // asked for before there was an id
      if (event.kind === "ended") return event.report;
    }
  } catch (error) {
    if (!leaving.signal.aborted) throw error;
  }
  if (!leaving.signal.aborted) {
    throw new DmigrateError("AGENT_UNREACHABLE", "The agent ended the stream before the migration ended; see `dmigrate list`");
  }
  const id = view.progress.migration?.id;
  view.say(id === undefined ? "Left." : `Left; the migration goes on in the agent. \`dmigrate watch ${id}\` joins it again.`);
  return undefined;
}

/** Asks the agent, which alone knows whether it is too late, and tells what comes of it. */
async function cancel(client: ControlClient, view: View): Promise<void> {
  const { migration } = view.progress;
  if (migration === undefined) return;
  const { id, container, target } = migration;
  view.say("Cancelling. Ctrl-C again leaves without waiting.");
  try {
    await client.cancel(migrationId(id));
  } catch (thrown) {
    const error = DmigrateError.from(thrown);
    view.say(
      error.code === "CANCEL_TOO_LATE"
        ? `Too late: ${container} belongs to ${target} already, and the migration ends by itself.\n` +
            `This terminal may be closed; \`dmigrate watch ${id}\` joins it again. Ctrl-C again leaves.`
        : `Cannot cancel: ${error.message}`,
    );
  }
}

/** What Ctrl-C would do now. */
function hint({ migration, phases }: Progress, interrupt: "cancel" | "leave"): string {
  if (interrupt === "leave" || phases.has("post-copy")) return "Ctrl-C leaves; the migration goes on.";
  return migration === undefined
    ? "Ctrl-C cancels."
    : `Ctrl-C cancels; ${migration.container} then goes on running on ${migration.source}.`;
}

function exitCodeOf({ outcome, error }: Report): number {
  if (outcome === "completed") return 0;
  const code = error !== undefined && isErrorCode(error.code) ? error.code : "INTERNAL";
  return ERROR_CODES[code].exitCode;
}
