/**
 * The control API as a command sees it: calls to the agent of the same host over its unix socket.
 */
import { createConnection } from "node:net";
import { createClient } from "@connectrpc/connect";
import { DmigrateError } from "../core/errors.ts";
import type { RequestableMode } from "../core/migration.ts";
import { hostName, migrationId, type HostName, type MigrationId } from "../core/ids.ts";
import { PHASES, type JournalState, type Phase, type Report } from "../core/migration.ts";
import { CHECK_IDS } from "../core/preflight.ts";
import { ControlService, type Host, type MigrationSummary as SummaryMessage } from "../gen/dmigrate/v1/control_pb.js";
import type { CheckResult as CheckMessage } from "../gen/dmigrate/v1/types_pb.js";
import { eventFromProto, JOURNAL_STATES, oneOf, present, reportFromProto } from "./api/convert.ts";
import { fromConnectError } from "./api/errors.ts";
import { callsOver } from "./api/transport.ts";
import { reasonOf } from "./causes.ts";
import type { CallOptions, CheckResult, MigrateRequest, StreamedEvent } from "./migrations.ts";

export type { CallOptions, CheckResult, MigrateRequest, MigrationBegan, StreamedEvent } from "./migrations.ts";

/** Where an agent's control socket lies unless it was started otherwise. */
export const CONTROL_SOCKET = "/run/dmigrate/agent.sock";

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
  /** On the target, of one that has not ended: what it waits for, or waited for last, if it could not go on. */
  readonly notice?: string;
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
  check(container: string, target: HostName, mode: RequestableMode, options?: CallOptions): Promise<CheckResult>;
  /** Events of a migration from its beginning, those that already happened first; ends after `ended`. */
  watch(id: MigrationId, options?: CallOptions): AsyncIterable<StreamedEvent>;
  /** As `Migrations.cancel`. */
  cancel(id: MigrationId, options: { readonly takeBack: boolean }): Promise<void>;
  /** The newest first. */
  list(): Promise<readonly MigrationSummary[]>;
  /** Throws MIGRATION_IN_PROGRESS until the migration ended. */
  report(id: MigrationId): Promise<Report>;
  /** Makes this host the first of a new cluster. `address` is the one other hosts reach it at, host:port. */
  init(name: HostName, address: string): Promise<ClusterHost>;
  addHost(name: HostName, address: string, token: string): Promise<HostChange>;
  /** Removes another host, or makes this one leave the cluster. */
  removeHost(name: HostName): Promise<HostChange>;
  hosts(): Promise<readonly ClusterHost[]>;
}

/** A client of the agent behind `socketPath`. Connects at the first call. */
export function controlClient(socketPath: string = CONTROL_SOCKET): ControlClient {
  const calls = callsOver(() => createConnection(socketPath));
  const client = createClient(ControlService, calls.transport);
  const lost = (error: unknown): DmigrateError => {
    const reason = reasonOf(error);
    const remedy = reason.includes("EACCES") ? "run this as root, who alone may use it" : "start it with `dmigrate agent`";
    return new DmigrateError("AGENT_UNREACHABLE", `No agent answers at ${socketPath}: ${reason}; ${remedy}`, error);
  };
  const asking = async <T>(answer: Promise<T>, options?: CallOptions): Promise<T> => {
    try {
      return await answer;
    } catch (error) {
      throw fromConnectError(error, lost, options?.signal);
    }
  };
  async function* streaming(
    messages: AsyncIterable<Parameters<typeof eventFromProto>[0]>,
    options?: CallOptions,
  ): AsyncGenerator<StreamedEvent, void> {
    try {
      for await (const message of messages) yield eventFromProto(message);
    } catch (error) {
      throw fromConnectError(error, lost, options?.signal);
    }
  }

  return {
    async status() {
      const { version, host, pid, listen, joinToken } = await asking(client.getStatus({}));
      return { version, pid, listen, ...(host === "" ? {} : { host: hostName(host) }), ...(joinToken === "" ? {} : { joinToken }) };
    },
    migrate: (request, options) => streaming(client.migrate(request, options), options),
    async check(container, target, mode, options) {
      return checkFromProto(await asking(client.check({ container, target, mode }, options), options));
    },
    watch: (id, options) => streaming(client.watch({ id }, options), options),
    async cancel(id, { takeBack }) {
      await asking(client.cancel({ id, takeBack }));
    },
    async list() {
      const { migrations } = await asking(client.list({}));
      return migrations.map(summaryFromProto);
    },
    async report(id) {
      return reportFromProto(await asking(client.getReport({ id })));
    },
    async init(name, address) {
      return hostFromProto(present((await asking(client.init({ name, address }))).host, "host"));
    },
    async addHost(name, address, token) {
      const { warnings } = await asking(client.addHost({ name, address, token }));
      return { warnings };
    },
    async removeHost(name) {
      const { warnings } = await asking(client.removeHost({ name }));
      return { warnings };
    },
    async hosts() {
      return (await asking(client.listHosts({}))).hosts.map(hostFromProto);
    },
    [Symbol.dispose]: () => calls[Symbol.dispose](),
  };
}

function hostFromProto({ name, address, self, reachable }: Host): ClusterHost {
  return { name: hostName(name), address, self, ...(reachable === undefined ? {} : { reachable }) };
}

function summaryFromProto({ id, container, source, target, role, state, phase, notice, beganAtMs }: SummaryMessage): MigrationSummary {
  return {
    id: migrationId(id),
    container,
    source: hostName(source),
    target: hostName(target),
    role: oneOf(["source", "target"], role, "role"),
    state: oneOf(JOURNAL_STATES, state, "state of a migration"),
    ...(phase === "" ? {} : { phase: oneOf(PHASES, phase, "phase") }),
    ...(notice === "" ? {} : { notice }),
    beganAtMs: Number(beganAtMs),
  };
}

function checkFromProto({ container, source, target, findings, passed }: CheckMessage): CheckResult {
  return {
    container,
    source: hostName(source),
    target: hostName(target),
    findings: findings.map(({ severity, check, host, message, remedy }) => ({
      severity: oneOf(["blocker", "warning"], severity, "severity"),
      check: oneOf(CHECK_IDS, check, "check"),
      ...(host === "" ? {} : { host: hostName(host) }),
      message,
      remedy,
    })),
    passed,
  };
}
