/**
 * What every phase of a migration at its source has at hand: its subject, the two stacks of what is undone and closed, its channels and
 * what crosses them, and whom it tells what.
 */
import type { MigrationId } from "../../core/ids.ts";
import type { DumpPlan } from "../../core/dump-plan.ts";
import { PHASES, totalBytes, type ByteCounts, type MigrationEvent, type PlanChange, type RequestableMode } from "../../core/migration.ts";
import type { ContainerDescription } from "../../docker/description.ts";
import type { Engine } from "../../docker/engine.ts";
import type { AgentContext } from "../context.ts";
import type { ChannelKind } from "../channels.ts";
import type { Channel } from "../link.ts";
import type { CallOptions, MigrateRequest, PeerCalls } from "../migrations.ts";
import { Timeline } from "../timeline.ts";
import type { SourceDetail } from "./detail.ts";
import { paceOf, type Pace } from "./pace.ts";

/** So many changes of the plan are told. */
const PLANS_MAX = 32;

/** What a migration is about. */
export interface SourceSubject {
  readonly id: MigrationId;
  readonly request: MigrateRequest;
  readonly description: ContainerDescription;
  /** Process id of the container's init, as the host counts. */
  readonly initPid: number;
}

/** Of one migration. */
export class SourceScope {
  readonly context: AgentContext;
  readonly engine: Engine;
  readonly subject: SourceSubject;
  readonly target: PeerCalls;
  readonly timeline: Timeline;
  /** Of what is copied while the container runs. */
  readonly pace: Pace;
  /** Undone on a rollback, the newest first. */
  readonly undo = new AsyncDisposableStack();
  /** Closed when the migration ended, however it did. */
  readonly open = new AsyncDisposableStack();
  /** Aborted by the user, or, until the commit, by the loss of the target. */
  cancelled: AbortSignal;
  /** What was asked for, or what `auto` has become. */
  mode: RequestableMode;
  readonly #counters: { readonly kind: keyof ByteCounts; readonly read: () => number }[] = [];
  readonly #plans: PlanChange[] = [];
  readonly #warnings: string[] = [];

  constructor(context: AgentContext, engine: Engine, subject: SourceSubject, cancelled: AbortSignal) {
    this.context = context;
    this.engine = engine;
    this.subject = subject;
    this.target = context.peers.to(subject.request.target);
    this.timeline = new Timeline((event) => this.tell(event));
    this.cancelled = cancelled;
    this.mode = subject.request.mode;
    const { config, peers } = context;
    const copied = {
      initPid: subject.initPid,
      targetAddress: peers.address(subject.request.target),
      sentBytes: () => totalBytes(this.bytes),
    };
    this.pace = paceOf(config, copied, (plan) => this.#planned(plan));
  }

  /** For calls that end with the migration. */
  get options(): CallOptions {
    return { signal: this.cancelled };
  }

  /** Opens a channel to the target, cut by a rollback; counts what it sends, if it is of a kind. */
  async channel(channelKind: ChannelKind, kind?: keyof ByteCounts): Promise<Channel> {
    const { id, request } = this.subject;
    const channel = await this.context.link.open(request.target, id, channelKind, this.cancelled);
    this.undo.defer(() => channel.destroy());
    if (kind !== undefined) this.count(kind, () => channel.counts.sent);
    return channel;
  }

  /** @param read returns how many bytes of that kind have crossed so far */
  count(kind: keyof ByteCounts, read: () => number): void {
    this.#counters.push({ kind, read });
  }

  /** What has crossed so far. */
  get bytes(): ByteCounts {
    const bytes = { memory: 0, files: 0, layers: 0, metadata: 0 };
    for (const { kind, read } of this.#counters) bytes[kind] += read();
    return bytes;
  }

  get plans(): readonly PlanChange[] {
    return this.#plans;
  }

  #planned({ cpuCores, workers, chunkPages, connections, compression, why }: DumpPlan): void {
    // What is frozen, or runs on the target, is not copied by plan.
    if (this.#plans.length === PLANS_MAX || PHASES.indexOf(this.timeline.current) >= PHASES.indexOf("freeze")) return;
    const atMs = this.timeline.now();
    const plan = {
      atMs,
      cpuCores: Math.round(cpuCores * 100) / 100,
      workers,
      chunkPages,
      connections,
      compression,
      why,
    };
    this.#plans.push(plan);
    this.tell({ kind: "planned", atMs, plan });
  }

  get warnings(): readonly string[] {
    return this.#warnings;
  }

  warn(...messages: readonly string[]): void {
    for (const message of messages) {
      this.#warnings.push(message);
      this.tell({ kind: "warning", atMs: this.timeline.now(), message });
    }
  }

  tell(event: MigrationEvent): void {
    this.context.events.publish(this.subject.id, event);
  }

  /** Enters in the journal what a next agent has to know. */
  note(detail: Pick<SourceDetail, "volumes" | "heldPid" | "frozen">): void {
    this.context.journal.note(this.subject.id, { ...detail, mode: this.mode, hasPolicyBack: false } satisfies SourceDetail);
  }

  /** For the agent's log. */
  logWarning(error: unknown, what: string): void {
    this.context.log.warn({ err: error, migration: this.subject.id }, what);
  }
}
