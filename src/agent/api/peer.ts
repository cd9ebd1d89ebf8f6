/**
 * What this host answers other hosts: PeerService, to members alone, and JoinService, while it is no member. Both only translate.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  createContextKey,
  createContextValues,
  type ConnectRouter,
  type ContextValues,
  type HandlerContext,
  type ServiceImpl,
} from "@connectrpc/connect";
import { z } from "zod";
import { DmigrateError } from "../../core/errors.ts";
import { hostName, migrationId, type HostName, type MigrationId } from "../../core/ids.ts";
import { JoinService, PeerService, type GetDigestsResponseSchema } from "../../gen/dmigrate/v1/peer_pb.js";
import type { DigestedRun } from "../../memory/page-digests.ts";
import type { Cluster } from "../cluster.ts";
import { forget } from "../hosts.ts";
import type { Journal } from "../journal.ts";
import type { Migrations, TargetSessions } from "../migrations.ts";
import { finishedToProto, memberFromProto, pagesToProto, restoredToProto, parseJson, stepsToProto } from "./convert.ts";

/** How soon the end of a migration is told to who attends. */
const ATTENDANCE_MS = 500;

type DigestsMessage = MessageInitShape<typeof GetDigestsResponseSchema>;

const callerKey = createContextKey<HostName | undefined>(undefined);

/** Hands the handlers below who calls. */
export function callerValues(caller: HostName | undefined): ContextValues {
  return createContextValues().set(callerKey, caller);
}

function callerOf({ values }: HandlerContext): HostName {
  const caller = values.get(callerKey);
  if (caller === undefined)
    throw new DmigrateError("PEER_REFUSED", "The host asked does not know the asking one as a member of its cluster; add it there");
  return caller;
}

export interface PeerParts {
  readonly cluster: Cluster;
  readonly journal: Journal;
  readonly migrations: Migrations;
  readonly targets: TargetSessions;
  /** Aborted when the agent ends. */
  readonly ending: AbortSignal;
  /** Resolves once the sessions have recovered. */
  readonly recovered: Promise<void>;
}

export function peerRoutes(router: ConnectRouter, parts: PeerParts): void {
  router.service(PeerService, peerService(parts)).service(JoinService, joinService(parts.cluster));
}

function peerService({ cluster, journal, migrations, targets, ending, recovered }: PeerParts): ServiceImpl<typeof PeerService> {
  /** The migration, once its sessions may be used, if the caller is its source. */
  const ofCaller = async (id: string, context: HandlerContext): Promise<MigrationId> => {
    const caller = callerOf(context);
    await recovered;
    const record = journal.find(migrationId(id));
    if (record?.role === "target" && record.peer === caller) return record.id;
    throw new DmigrateError("MIGRATION_NOT_FOUND", `Migration ${id} has not been reserved by ${caller}; migrate again`);
  };

  return {
    async getFacts({ arrivingJson }, context) {
      callerOf(context);
      await recovered;
      return { factsJson: JSON.stringify(await targets.facts(parseJson(arrivingJson, z.unknown()), context)) };
    },
    async reserve({ migration, source, descriptionJson, verify }, context) {
      const caller = callerOf(context);
      if (source !== caller) throw new DmigrateError("PEER_REFUSED", `Host ${caller} cannot reserve for ${source}; migrate from there`);
      await recovered;
      const { presentLayers } = await targets.reserve(
        { migration: migrationId(migration), source: caller, description: descriptionJson, verify },
        context,
      );
      return { presentLayers: [...presentLayers] };
    },
    async createContainer({ migration }, context) {
      return { warnings: [...(await targets.createContainer(await ofCaller(migration, context), context))] };
    },
    async stage({ migration, criuOptions, interfaceNames }, context) {
      return { warnings: [...(await targets.stage(await ofCaller(migration, context), { criuOptions, interfaceNames }, context))] };
    },
    async restore({ migration, whole }, context) {
      return restoredToProto(await targets.restore(await ofCaller(migration, context), { whole }, context));
    },
    async commit({ migration, heldPackets }, context) {
      return { steps: stepsToProto(await targets.commit(await ofCaller(migration, context), heldPackets, context)) };
    },
    async deliverPackets({ migration, packets }, context) {
      await targets.deliver(await ofCaller(migration, context), packets, context);
      return {};
    },
    async sendSignal({ migration, signal }, context) {
      await targets.signal(await ofCaller(migration, context), signal, context);
      return {};
    },
    async awaitPages({ migration }, context) {
      return { pages: pagesToProto(await targets.awaitPages(await ofCaller(migration, context), context)) };
    },
    getDigests: ({ migration }, context) => digestsToProto(async () => targets.digests(await ofCaller(migration, context), context)),
    async finish({ migration }, context) {
      return finishedToProto(await targets.finish(await ofCaller(migration, context), context));
    },
    async abort({ migration }, context) {
      await targets.abort(await ofCaller(migration, context), context);
      return {};
    },
    getState({ migration }, context) {
      const caller = callerOf(context);
      const record = journal.find(migrationId(migration));
      return { state: record?.peer === caller ? record.state : "" };
    },
    async *attend({ migration }, context) {
      callerOf(context);
      const isOver = (): boolean => migration !== "" && !migrations.isUnderWay(migrationId(migration));
      if (isOver()) throw new DmigrateError("MIGRATION_NOT_FOUND", `Migration ${migration} is not under way any more; migrate again`);
      yield {};
      const gone = AbortSignal.any([context.signal, ending]);
      while (!gone.aborted && !isOver()) await delay(ATTENDANCE_MS, undefined, { signal: gone }).catch(() => {});
    },
    addMember({ member }, context) {
      callerOf(context);
      cluster.add(memberFromProto(member));
      return {};
    },
    async removeMember({ name }, context) {
      callerOf(context);
      await forget(cluster, journal, hostName(name));
      return {};
    },
  };
}

async function* digestsToProto(find: () => Promise<AsyncIterable<DigestedRun>>): AsyncGenerator<DigestsMessage, void> {
  for await (const { process, page, digests } of await find()) yield { process, page: BigInt(page), digests };
}

function joinService(cluster: Cluster): ServiceImpl<typeof JoinService> {
  return {
    join({ secret }) {
      return { publicKey: cluster.publicKey(secret) };
    },
    install({ secret, name, authority, caPem, certificatePem, members }) {
      cluster.install(secret, {
        name: hostName(name),
        authority: hostName(authority),
        authorityCertificate: caPem,
        certificate: certificatePem,
        members: members.map(memberFromProto),
      });
      return {};
    },
  };
}
