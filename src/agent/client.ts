/**
 * The control API as a command sees it: calls to the agent of the same host over its unix socket.
 */
import type { HostName, MigrationId } from "../core/ids.ts";
import type { JournalState, MigrationEvent, Phase, Report } from "../core/migration.ts";
import type { CallOptions, CheckResult, MigrateRequest } from "./migrations.ts";

/** Where an agent's control socket lies unless it was started otherwise. */
export const CONTROL_SOCKET = "/run/dmigrate/agent.sock";

/** The first event of every stream: which migration it is about. */
export interface MigrationBegan {
  readonly kind: "began";
  readonly atMs: 0;
  readonly id: MigrationId;
  readonly container: string;
  readonly source: HostName;
  readonly target: HostName;
}

/** What a stream of events consists of. */
export type StreamedEvent = MigrationBegan | MigrationEvent;

export interface AgentStatus {
  readonly version: string;
  /** Absent until this host belongs to a cluster. */
  readonly host?: HostName;
  readonly pid: number;
  /** Address the agent listens at for other hosts, host:port. */
  readonly listen: string;
  /** The one-time token by which a member can add this host; absent once it is a member. */
  readonly joinToken?: string;
}

export interface MigrationSummary {
  readonly id: MigrationId;
  readonly container: string;
  readonly source: HostName;
  readonly target: HostName;
  /** Which side this host is. */
  readonly role: "source" | "target";
  readonly state: JournalState;
  readonly phase?: Phase;
  /** Unix time. */
  readonly beganAtMs: number;
}

export interface ClusterHost {
  readonly name: HostName;
  /** host:port. */
  readonly address: string;
  readonly self: boolean;
  /** Whether it answered just now; only in a list. */
  readonly reachable?: boolean;
}

/** A change to the list of hosts, and which members could not be told of it. */
export interface HostChange {
  readonly warnings: readonly string[];
}

/**
 * Every method throws the `DmigrateError` that the agent threw, or AGENT_UNREACHABLE if no agent answers.
 * Ending a stream of events, or losing it, does not end the migration.
 */
export interface ControlClient extends Disposable {
  status(): Promise<AgentStatus>;
  /** Begins a migration away from this host and streams its events until `ended`. */
  migrate(request: MigrateRequest, options?: CallOptions): AsyncIterable<StreamedEvent>;
  check(container: string, target: HostName, options?: CallOptions): Promise<CheckResult>;
  /** Events of a migration from its beginning, those that already happened first; ends after `ended`. */
  watch(id: MigrationId, options?: CallOptions): AsyncIterable<StreamedEvent>;
  cancel(id: MigrationId): Promise<void>;
  /** The newest first. */
  list(): Promise<readonly MigrationSummary[]>;
  /** Throws MIGRATION_IN_PROGRESS until the migration ended. */
  report(id: MigrationId): Promise<Report>;
  /** Makes this host the first of a new cluster. `address` is the one other hosts reach it at, host:port. */
  init(name: HostName, address: string): Promise<ClusterHost>;
  addHost(name: HostName, address: string, token: string): Promise<HostChange>;
  removeHost(name: HostName): Promise<HostChange>;
  hosts(): Promise<readonly ClusterHost[]>;
}

/** A client of the agent behind `socketPath`. Connects at the first call. */
export function controlClient(socketPath: string = CONTROL_SOCKET): ControlClient {
  throw new Error(`not connected to ${socketPath}`);
}
