/**
 * What the source's journal keeps of a migration for an agent that restarts: enough to let the container run on, or to know that it
 * must not.
 */
import * as z from "zod";
import { REQUESTABLE_MODES } from "../../core/migration.ts";
import { restartPolicy } from "../../docker/inspect.ts";

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
});
/** See above. */
export type SourceDetail = z.infer<typeof detail>;

/** Reads what a journal has. Throws a ZodError if it was written by nobody of ours. */
export function readDetail(value: unknown): SourceDetail {
  return detail.parse(value);
}
