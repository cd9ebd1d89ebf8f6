/**
 * What the source's journal keeps of a migration for an agent that restarts: enough to let the container run on, or to know that it
 * must not.
 */
import * as z from "zod";
import type { MigrationId } from "../../core/ids.ts";
import { REQUESTABLE_MODES, type Step } from "../../core/migration.ts";
import { restartPolicy } from "../../docker/inspect.ts";
import type { Journal } from "../journal.ts";
import type { SourceSubject } from "./scope.ts";
import { standingTasks } from "./standing.ts";

const detail = z.object({
  mode: z.enum(REQUESTABLE_MODES).default("post-copy"),
  /** For moved-volumes.ts. */
  volumes: z.array(z.object({ name: z.string(), identity: z.string() })).default([]),
  /** Process id of the init of a container that may be made to stand still for moments while it is copied. */
  heldPid: z.int().optional(),
  /** Set if the container was let run on without an agent: when, in Unix time, and for how long it had been frozen. */
  ranOn: z.object({ atMs: z.number(), downtimeMs: z.number() }).optional(),
  /** Set if it has its restart policy back since. */
  hasPolicyBack: z.boolean().default(false),
  /** Set once the container is about to be frozen. */
  frozen: z
    .object({
      initPid: z.int(),
      /** To be given back. */
      restartPolicy,
      /** Where CRIU's page server may listen. */
      pagePort: z.int(),
      /** What was asked for: that the container stays here, stopped, when the target has it. */
      keepSource: z.boolean().default(false),
      /** Unix time. */
      sinceMs: z.number(),
      /** The file that is its /etc/hosts; see shut.ts. */
      hostsFile: z.string(),
    })
    .optional(),
  /** Set with the commit. */
  committed: z
    .object({
      /** What has the pages that the target may lack. */
      standing: standingTasks,
      verify: z.boolean(),
      /** What may be sent in a second, if that was said. */
      bytesPerSecond: z.number().optional(),
    })
    .optional(),
  /** Set soon after it: what the report has of the freeze and the handover. */
  report: z
    .object({
      downtimeMs: z.number(),
      steps: z.custom<readonly Step[]>((value) => Array.isArray(value)), // as they were written below
    })
    .optional(),
});
type Committed = NonNullable<SourceDetail["committed"]>;
/** See above. */
export type SourceDetail = z.infer<typeof detail>;

/** Reads what a journal has. Throws a ZodError if it was written by nobody of ours. */
export function readDetail(value: unknown): SourceDetail {
  return detail.parse(value);
}

/** The target owns the container from now on. The same write tells the next agent what it needs to serve the pages that are missing. */
export function noteCommitted(journal: Journal, { id, request }: SourceSubject, standing: Committed["standing"]): void {
  const { verify, bytesPerSecond } = request;
  const committed: Committed = { standing, verify, ...(bytesPerSecond === undefined ? {} : { bytesPerSecond }) };
  journal.move(id, "committed", { ...readDetail(journal.get(id).detail), committed });
}

/** For the report of an agent after this one. */
export function noteReport(journal: Journal, id: MigrationId, report: NonNullable<SourceDetail["report"]>): void {
  journal.note(id, { ...readDetail(journal.get(id).detail), report });
}
