/**
 * What the migration sessions get from the agent around them.
 */
import type { Logger } from "pino";
import type { HostName } from "../core/ids.ts";
import type { AgentConfig } from "./config.ts";
import type { EventHub } from "./events.ts";
import type { Journal } from "./journal.ts";
import type { Link } from "./link.ts";
import type { Migrations, TargetSessions } from "./migrations.ts";
import type { Peers } from "./peers.ts";

export interface AgentContext {
  readonly config: AgentConfig;
  readonly journal: Journal;
  readonly events: EventHub;
  readonly link: Link;
  readonly peers: Peers;
  readonly log: Logger;
  /** This host's name. Throws NOT_INITIALISED until it belongs to a cluster. */
  self(): HostName;
}

/** Makes both sides of the migration logic; called once, when the agent starts. */
export type StartSessions = (context: AgentContext) => { readonly migrations: Migrations; readonly targets: TargetSessions };
