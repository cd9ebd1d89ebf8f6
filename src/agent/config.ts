/**
 * The agent's configuration, in two steps: flags and environment give strings, `parseConfig` makes values of them.
 */
import { isAbsolute } from "node:path";
import { z } from "zod";
import { DmigrateError } from "../core/errors.ts";
import type { TransferOrder } from "../core/schedule.ts";
import { DEFAULT_PORT, parseAddress, type Address } from "./address.ts";

export interface AgentConfig {
  /** Keys, list of hosts, journal; survives a restart of the machine. */
  readonly stateDir: string;
  /** Control socket and what a running migration needs; gone after a restart of the machine. */
  readonly runDir: string;
  /** Where other hosts reach this agent; port 0 means any free one. */
  readonly listen: Address;
  /** Docker Engine's unix socket. */
  readonly dockerSocket: string;
  /** Who serves the pages of tasks that were restored here: this agent, or the stock `criu lazy-pages`. */
  readonly pageHandler: "own" | "criu";
  /** In which order what this agent sends leaves; `fifo` to show what the priorities are worth. */
  readonly order: TransferOrder;
  /** How a container is copied while it runs: as measurements say (src/core/dump-plan.ts), or always in the same way. */
  readonly dumpPlan: "measured" | "fixed";
  /** Percent of the machine's processor time that copying may take where nothing is idle. */
  readonly cpuBudget: number;
  readonly logLevel: "debug" | "info" | "warn" | "error" | "silent";
}

/** What was given, unchecked. */
export type RawConfig = { readonly [Key in keyof AgentConfig]?: string | undefined };

/**
 * Flags win over DMIGRATE_STATE_DIR, DMIGRATE_RUN_DIR, DMIGRATE_LISTEN, DMIGRATE_DOCKER_SOCKET, DMIGRATE_PAGE_HANDLER, DMIGRATE_ORDER,
 * DMIGRATE_DUMP_PLAN, DMIGRATE_CPU_BUDGET and DMIGRATE_LOG_LEVEL.
 */
export function rawConfig(flags: RawConfig, env: Readonly<Record<string, string | undefined>>): RawConfig {
  return {
    stateDir: flags.stateDir ?? env["DMIGRATE_STATE_DIR"],
    runDir: flags.runDir ?? env["DMIGRATE_RUN_DIR"],
    listen: flags.listen ?? env["DMIGRATE_LISTEN"],
    dockerSocket: flags.dockerSocket ?? env["DMIGRATE_DOCKER_SOCKET"],
    pageHandler: flags.pageHandler ?? env["DMIGRATE_PAGE_HANDLER"],
    order: flags.order ?? env["DMIGRATE_ORDER"],
    dumpPlan: flags.dumpPlan ?? env["DMIGRATE_DUMP_PLAN"],
    cpuBudget: flags.cpuBudget ?? env["DMIGRATE_CPU_BUDGET"],
    logLevel: flags.logLevel ?? env["DMIGRATE_LOG_LEVEL"],
  };
}

const absolutePath = z.string().refine(isAbsolute, "must be an absolute path");

const Config = z.object({
  stateDir: absolutePath.default("/var/lib/dmigrate"),
  runDir: absolutePath.default("/run/dmigrate"),
  listen: z
    .string()
    .default(`:${DEFAULT_PORT}`)
    .transform((text) => parseAddress(text)),
  dockerSocket: absolutePath.default("/var/run/docker.sock"),
  pageHandler: z.enum(["own", "criu"]).default("own"),
  order: z.enum(["priority", "fifo"]).default("priority"),
  dumpPlan: z.enum(["measured", "fixed"]).default("measured"),
  cpuBudget: z.coerce.number("must be a number").min(1).max(100).default(20),
  logLevel: z.enum(["debug", "info", "warn", "error", "silent"]).default("info"),
});

/** Throws USAGE, naming what is wrong. */
export function parseConfig(raw: RawConfig): AgentConfig {
  const parsed = Config.safeParse(raw);
  if (parsed.success) return parsed.data;
  const complaints = parsed.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`);
  throw new DmigrateError("USAGE", `Cannot use the agent's configuration: ${complaints.join(", ")}; see \`dmigrate agent --help\``);
}
