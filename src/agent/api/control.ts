/**
 * What this host answers its own users: ControlService, over the unix socket. It only translates.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ConnectRouter } from "@connectrpc/connect";
import { BYTES_PER_SECOND_MIN } from "../../core/rate-limit.ts";
import { DmigrateError } from "../../core/errors.ts";
import { hostName, migrationId, type HostName, type MigrationId } from "../../core/ids.ts";
import { hasEnded } from "../../core/journal-states.ts";
import { ControlService, type MigrationSummarySchema } from "../../gen/dmigrate/v1/control_pb.js";
import type { EventSchema } from "../../gen/dmigrate/v1/types_pb.js";
import { formatAddress, parseAddress, parsePeerAddress } from "../address.ts";
import type { Cluster } from "../cluster.ts";
import type { EventHub } from "../events.ts";
import { addHost, removeHost } from "../hosts.ts";
import type { Journal, MigrationRecord } from "../journal.ts";
import type { Migrations } from "../migrations.ts";
import type { Peers } from "../peers.ts";
import { encodeToken } from "../pki.ts";

import { REQUESTABLE_MODES, type Report, type RequestableMode } from "../../core/migration.ts";
import { eventToProto, reportToProto } from "./convert.ts";

export interface ControlParts {
  readonly cluster: Cluster;
  readonly journal: Journal;
  readonly events: EventHub;
  readonly peers: Peers;
  readonly migrations: Migrations;
  readonly version: string;
  /** Where the agent listens for other hosts, host:port. */
  readonly listen: string;
}

type EventMessage = MessageInitShape<typeof EventSchema>;

/** How long a host may take to be called reachable. */
const REACHABLE_TIMEOUT_MS = 2_000;

export function controlRoutes(router: ConnectRouter, { cluster, journal, events, peers, migrations, version, listen }: ControlParts): void {
  /** The host a container shall go to. Throws HOST_UNKNOWN, HOST_IS_SOURCE. */
  const target = (name: string): HostName => {
    const host = hostName(name);
    peers.to(host);
    return host;
  };

  async function* eventsOf(id: MigrationId, signal: AbortSignal): AsyncGenerator<EventMessage, void> {
    yield eventToProto({ kind: "began", atMs: 0, id, ...partiesOf(journal.get(id), cluster) });
    for await (const event of events.watch(id, signal)) yield eventToProto(event);
  }

  router.service(ControlService, {
    getStatus() {
      const { state } = cluster;
      const common = { version, pid: process.pid, listen };
      return state.kind === "member" ? { ...common, host: state.self } : { ...common, joinToken: encodeToken(state.token) };
    },
    async *migrate({ container, target: name, mode, keepSource, verify, maxDowntimeMs, bytesPerSecond }, { signal }) {
      const limits = {
        ...(maxDowntimeMs === undefined ? {} : { maxDowntimeMs: downtimeLimit(maxDowntimeMs) }),
        ...(bytesPerSecond === undefined ? {} : { bytesPerSecond: rateLimit(bytesPerSecond) }),
      };
      const request = { container, target: target(name), mode: requestableMode(mode), keepSource, verify, ...limits };
      yield* eventsOf(await migrations.migrate(request), signal);
    },
    async check({ container, target: name, mode }, { signal }) {
      const { findings, passed, ...parties } = await migrations.check(container, target(name), requestableMode(mode), { signal });
      return { ...parties, findings: [...findings], passed: [...passed] };
    },
    async *watch({ id }, { signal }) {
      assertDriven(journal.get(migrationId(id)), "watch");
      yield* eventsOf(migrationId(id), signal);
    },
    async cancel({ id, takeBack }) {
      const record = journal.get(migrationId(id));
      const { state } = record;
      const place = record.role === "source" ? "" : ` on host ${record.peer}`;
      if (hasEnded(state))
        throw new DmigrateError("CANCEL_TOO_LATE", `Migration ${id} has ended already, as ${state}; see \`dmigrate report ${id}\`${place}`);
      assertDriven(record, "cancel");
      await migrations.cancel(migrationId(id), { takeBack });
      return {};
    },
    list() {
      return { migrations: journal.list().map((record) => summaryToProto(record, noticeOf(record, journal), cluster)) };
    },
    getReport({ id }) {
      return reportToProto(reportOf(journal.get(migrationId(id))));
    },
    async init({ name, address }) {
      const reachable = parsePeerAddress(address, parseAddress(listen).port);
      const member = await cluster.init(hostName(name), formatAddress(reachable));
      return { host: { name: member.name, address: member.address, self: true } };
    },
    async addHost({ name, address, token }) {
      return { warnings: await addHost(cluster, peers, hostName(name), address, token) };
    },
    async removeHost({ name }) {
      return { warnings: await removeHost(cluster, peers, journal, hostName(name)) };
    },
    async listHosts() {
      const { members, self } = cluster.membership;
      const hosts = [...members.values()].map(async ({ name, address }) => ({
        name,
        address,
        self: name === self,
        reachable: name === self || (await answers(peers, name)),
      }));
      return { hosts: await Promise.all(hosts) };
    },
  });
}

/** Throws USAGE. */
function requestableMode(text: string): RequestableMode {
  const known = REQUESTABLE_MODES.find((each) => each === (text === "" ? "auto" : text));
  if (known !== undefined) return known;
  throw new DmigrateError("USAGE", `There is no mode ${JSON.stringify(text)}; use one of ${REQUESTABLE_MODES.join(", ")}`);
}

/** Throws USAGE. */
function downtimeLimit(ms: number): number {
  if (ms > 0 && Number.isFinite(ms)) return ms;
  throw new DmigrateError("USAGE", `A container can't stand still for ${ms} ms at most; give a number of milliseconds above 0`);
}

function rateLimit(bytesPerSecond: number): number {
  if (bytesPerSecond >= BYTES_PER_SECOND_MIN && Number.isFinite(bytesPerSecond)) return bytesPerSecond;
  throw new DmigrateError("USAGE", `A migration can't do with ${bytesPerSecond} bytes a second; give ${BYTES_PER_SECOND_MIN} or more`);
}

/** Throws why there is none: MIGRATION_IN_PROGRESS, MIGRATION_NOT_FOUND on the target, or MEMORY_LOST there. */
function reportOf(record: MigrationRecord): Report {
  const { id, report, state, role, peer, container } = record;
  if (report !== undefined) return report;
  if (role === "target" && state === "failed")
    throw new DmigrateError(
      "MEMORY_LOST",
      `${container} belongs to this host since migration ${id}, but may lack memory, and what touches that waits for ever; ` +
        `\`docker restart ${container}\` starts it anew; host ${peer} has the report`,
    );
  if (hasEnded(state))
    throw new DmigrateError("MIGRATION_NOT_FOUND", `This host has no report of migration ${id}, whose ${role} it was; ask host ${peer}`);
  assertDriven(record, "watch");
  throw new DmigrateError("MIGRATION_IN_PROGRESS", `Migration ${id} has not ended; watch it with \`dmigrate watch ${id}\``);
}

/** Throws MIGRATION_NOT_FOUND on the target: a migration's source drives it, and tells how it goes. */
function assertDriven({ id, role, peer }: MigrationRecord, command: string): void {
  if (role === "source") return;
  throw new DmigrateError("MIGRATION_NOT_FOUND", `Host ${peer} drives migration ${id}; run \`dmigrate ${command} ${id}\` there`);
}

function summaryToProto(record: MigrationRecord, notice: string, cluster: Cluster): MessageInitShape<typeof MigrationSummarySchema> {
  const { id, role, state, beganAtMs, phase = "" } = record;
  return { ...partiesOf(record, cluster), id, role, state, beganAtMs: BigInt(beganAtMs), phase, notice };
}

/** A target has nobody to tell but who asks for its list. */
function noticeOf({ id, role, state }: MigrationRecord, journal: Journal): string {
  return role === "target" && !hasEnded(state) ? (journal.lastWarning(id) ?? "") : "";
}

/**
 * Source and target by the names they had then, as far as this host knows: the target has no report, and a host that has left its cluster
 * since has no name of its own any more.
 */
function partiesOf(
  { container, role, peer, report }: MigrationRecord,
  { state }: Cluster,
): { container: string; source: HostName; target: HostName } {
  const self = report?.[role] ?? (state.kind === "member" ? state.self : hostName("localhost"));
  return role === "source" ? { container, source: self, target: peer } : { container, source: peer, target: self };
}

async function answers(peers: Peers, host: HostName): Promise<boolean> {
  try {
    using _attendance = await peers.to(host).attend(undefined, { signal: AbortSignal.timeout(REACHABLE_TIMEOUT_MS) });
    return true;
  } catch {
    return false;
  }
}
