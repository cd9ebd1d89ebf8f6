/**
 * What a source tells a target's preflight: the container that is about to come.
 */
import * as z from "zod";
import { DmigrateError } from "../core/errors.ts";
import { hostName, type HostName } from "../core/ids.ts";
import { containerNeeds, type ContainerNeeds } from "../core/preflight-facts.ts";
import { readDescription, writeDescription, type ContainerDescription } from "../docker/description.ts";

/** A container that is about to come. */
export interface Arriving {
  readonly needs: ContainerNeeds;
  readonly description: ContainerDescription;
  /** Where it comes from. */
  readonly source: HostName;
}

const arriving = z.object({
  needs: containerNeeds,
  description: z.string().transform(readDescription),
  source: z.string().transform(hostName),
});

/** As plain JSON, for the wire. */
export function writeArriving({ needs, description, source }: Arriving): unknown {
  return { needs, description: writeDescription(description), source };
}

/** Checks what `writeArriving` made. Throws PROTOCOL. */
export function readArriving(json: unknown): Arriving {
  const result = arriving.safeParse(json);
  if (result.success) return result.data;
  throw new DmigrateError(
    "PROTOCOL",
    `Malformed needs of a container: ${z.prettifyError(result.error)}; update both agents to the same release`,
    result.error,
  );
}
