/**
 * What runc keeps of a container in its state.json (libcontainer/container_linux.go, `State`). Pure.
 */
import * as z from "zod";
import { parseExact, stringifyExact } from "../core/json.ts";
import { CONFIGURATION_LABEL } from "./configuration.ts";

const runcState = z.looseObject({ config: z.looseObject({ labels: z.array(z.string()).nullish() }) });

/** The state with CRIU's configuration in that file. One that came by a migration names the file of its restore, which is long gone. */
export function withConfiguration(state: string, configurationFile: string): string {
  const { config, ...rest } = runcState.parse(parseExact(state));
  const labels = (config.labels ?? []).filter((label) => !label.startsWith(`${CONFIGURATION_LABEL}=`));
  return stringifyExact({ ...rest, config: { ...config, labels: [...labels, `${CONFIGURATION_LABEL}=${configurationFile}`] } });
}
