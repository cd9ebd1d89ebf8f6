/**
 * What crosses between hosts in a preflight: the container that is about to come, and the facts of the host it comes to.
 */
import * as z from "zod";
import { DmigrateError } from "../core/errors.ts";
import { containerNeeds, hostFacts, type ContainerNeeds, type HostFacts } from "../core/preflight-facts.ts";
import { readDescription, writeDescription, type ContainerDescription } from "../docker/description.ts";

/** A container that is about to come. */
export interface Arriving {
  readonly needs: ContainerNeeds;
  readonly description: ContainerDescription;
}

const arriving = z.object({ needs: containerNeeds, description: z.string().transform(readDescription) });

/** As plain JSON, for the wire. */
export function writeArriving({ needs, description }: Arriving): unknown {
  return { needs, description: writeDescription(description) };
}

/** Checks what `writeArriving` made. Throws PROTOCOL. */
export function readArriving(json: unknown): Arriving {
  return understood(arriving, json, "description of the container");
}

/** Checks the facts another host sent. Throws PROTOCOL. */
export function readHostFacts(json: unknown): HostFacts {
  return understood(hostFacts, json, "description of the host");
}

function understood<T>(schema: z.ZodType<T>, json: unknown, what: string): T {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  throw new DmigrateError(
    "PROTOCOL",
    `Malformed ${what}: ${z.prettifyError(result.error)}; update both agents to the same release`,
    result.error,
  );
}
