/**
 * The two interfaces behind which the migration itself lies: what the control API asks of this host as a source, and
 * what another host asks of it as a target.
 */
import type { HostName, MigrationId } from "../core/ids.ts";
import type { JournalState, MigrationEvent, PageCounts, RequestableMode, Step } from "../core/migration.ts";
import type { HostFacts } from "../core/preflight-facts.ts";
import type { Finding } from "../core/preflight.ts";
import type { DigestedRun } from "../memory/page-digests.ts";

/** What `dmigrate migrate` asks for. */
export interface MigrateRequest {
  /** Name or id, as the user typed it. */
  readonly container: string;
  readonly target: HostName;
  readonly mode: RequestableMode;
  /** For how long the container may stand still, if that was said: no mode that is predicted to take longer is tried. */
  readonly maxDowntimeMs?: number;
  /** What may be sent in a second, if that was said, of what nobody waits for. */
  readonly bytesPerSecond?: number;
  /** Leave the stopped container on the source instead of removing it. */
  readonly keepSource: boolean;
  /** Compare every lazy page that the target's tasks were given with those of the frozen ones here. */
  readonly verify: boolean;
}

/** What a preflight found out. A migration may begin if no finding is a blocker. */
export interface CheckResult {
  readonly container: string;
  readonly source: HostName;
  readonly target: HostName;
  readonly findings: readonly Finding[];
  /** What was examined and found in order, a line each. */
  readonly passed: readonly string[];
}

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

/** Options of every call that crosses the network. */
export interface CallOptions {
  /** Ends the call with CANCELLED. The other side may have done what was asked all the same. */
  readonly signal?: AbortSignal;
}

/**
 * Migrations away from this host. Disposing of it cancels each one that is not committed, and waits for the others, whose memory would be
 * lost; those whose target does not say whether it took over are left to the next agent.
 */
export interface Migrations extends AsyncDisposable {
  /**
   * Takes up what an agent before this one left in the journal. Called once, before any other method; returns as soon as others may
   * be called, so what must wait for another host goes on behind it.
   */
  recover(): Promise<void>;
  /** Begins a migration: returns once it is in the journal. All that follows, its failure too, is told by its events. */
  migrate(request: MigrateRequest): Promise<MigrationId>;
  /** True if this agent, not one before it, drives that migration, and it has not ended. */
  isUnderWay(id: MigrationId): boolean;
  /** Runs the preflight alone; nothing is changed. */
  check(container: string, target: HostName, mode: RequestableMode, options?: CallOptions): Promise<CheckResult>;
  /**
   * Returns once the migration has been undone. Throws CANCEL_TOO_LATE after the handover.
   * @param options `takeBack`: also if the target was asked to take the container over and does not say whether it did; the caller answers
   *   for it that it does not run it and never will
   */
  cancel(id: MigrationId, options: { readonly takeBack: boolean }): Promise<void>;
}

/**
 * What a source asks of a target: implemented by the target's sessions and, on the source, by the peer client, so that
 * a source session knows no network. A migration's calls are accepted only from the host that reserved it; that has been
 * checked before an implementation is called.
 */
export interface TargetCalls {
  /** Features of the target, with what concerns the container to come: plain JSON of `writeArriving`. Nothing is changed. */
  facts(arriving: unknown, options?: CallOptions): Promise<HostFacts>;
  /** Opens a session and journals it. Everything a session makes goes with `abort`. */
  reserve(request: ReserveRequest, options?: CallOptions): Promise<Reservation>;
  /** Creates the container from its description, once its image layers have arrived. Returns warnings: what could not be kept. */
  createContainer(id: MigrationId, options?: CallOptions): Promise<readonly string[]>;
  /** Starts the container against the runtime that holds it; returns when it is held and its network exists, silenced. */
  stage(id: MigrationId, request: StageRequest, options?: CallOptions): Promise<readonly string[]>;
  /** All images have been sent: restores. Returns when every task is restored and none runs. */
  restore(id: MigrationId, request: RestoreRequest, options?: CallOptions): Promise<Restored>;
  /**
   * The point of no return: the source has journalled that the target owns the container. Tasks resume. Returns what took how long since
   * the call came.
   */
  commit(id: MigrationId, heldPackets: readonly Uint8Array[], options?: CallOptions): Promise<readonly Step[]>;
  /** Delivers packets that still reached the source after `commit`. */
  deliver(id: MigrationId, packets: readonly Uint8Array[], options?: CallOptions): Promise<void>;
  /** Sends the container a signal, by its number, that somebody has sent it on the source after `commit`. */
  signal(id: MigrationId, signal: number, options?: CallOptions): Promise<void>;
  /** Returns when the last page arrived. */
  awaitPages(id: MigrationId, options?: CallOptions): Promise<PageCounts>;
  /** Once the last page arrived, of a session that verifies: digests of all lazy pages, as their tasks were given them. */
  digests(id: MigrationId, options?: CallOptions): AsyncIterable<DigestedRun>;
  /** Closes a completed session. */
  finish(id: MigrationId, options?: CallOptions): Promise<Finished>;
  /** Undoes everything a session did. Throws CANCEL_TOO_LATE after `commit`. */
  abort(id: MigrationId, options?: CallOptions): Promise<void>;
}

/** Migrations to this host. Disposing of it undoes each session that is not committed, and waits for the others' memory. */
export interface TargetSessions extends TargetCalls, AsyncDisposable {
  /** As `Migrations.recover`. */
  recover(): Promise<void>;
}

export interface ReserveRequest {
  readonly migration: MigrationId;
  readonly source: HostName;
  /** The container's description, as `writeDescription` puts it. */
  readonly description: string;
  /** Keep digests of what tasks are given, for `digests`. */
  readonly verify: boolean;
}

export interface StageRequest {
  /** Options that CRIU needs to restore this container, lines of a configuration file. */
  readonly criuOptions: readonly string[];
  /** Of the container's interfaces on the source, as `namesByAddress` has them. */
  readonly interfaceNames: Readonly<Record<string, string>>;
}

export interface RestoreRequest {
  /** Whether the tasks are to have all of their memory, too. */
  readonly whole: boolean;
}

export interface Restored {
  readonly steps: readonly Step[];
  /** How their memory came, if they are to have all of it. */
  readonly pages?: PageCounts;
}

export interface Reservation {
  /** Chain ids of image layers that the target has already. */
  readonly presentLayers: readonly string[];
}

export interface Finished {
  /** What has become of the container. */
  readonly warnings: readonly string[];
  /** What the step "restore" was made of; times are before its end. */
  readonly restoreSteps: readonly Step[];
}

/** What can be asked of any peer: `TargetCalls`, and what it answers without a session. */
export interface PeerCalls extends TargetCalls {
  /** The migration's state in the peer's journal; undefined if it knows of no such migration with this host. */
  state(id: MigrationId, options?: CallOptions): Promise<JournalState | undefined>;
  /**
   * Stays with the peer: its signal is aborted, with PEER_UNREACHABLE, as soon as the peer's agent ends or has not answered for ten
   * seconds, or soon after a migration that is named has ended there. Throws what keeps it from beginning, MIGRATION_NOT_FOUND if the
   * peer's agent does not drive that migration (any more). Disposing of it ends it quietly.
   */
  attend(migration?: MigrationId, options?: CallOptions): Promise<Attendance>;
}

export interface Attendance extends Disposable {
  readonly signal: AbortSignal;
}
