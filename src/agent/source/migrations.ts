/**
 * All migrations away from this host: begins, checks and cancels them.
 */
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError } from "../../core/errors.ts";
import { freezerOf } from "../../criu/freezer.ts";
import { newMigrationId, type HostName, type MigrationId } from "../../core/ids.ts";
import type { RequestableMode } from "../../core/migration.ts";
import type { CallOptions, CheckResult, MigrateRequest, Migrations } from "../migrations.ts";
import { describe } from "../../docker/describe.ts";
import type { ContainerDescription } from "../../docker/description.ts";
import { Engine } from "../../docker/engine.ts";
import type { AgentContext } from "../context.ts";
import { Doubts } from "./doubts.ts";
import { runPreflight } from "./preflight.ts";
import { recoverMigrations } from "./recovery.ts";
import { SourceScope } from "./scope.ts";
import { SourceSession } from "./session.ts";
import type { TakenUp } from "./take-up.ts";

/** A container's name or a beginning of its id; anything else would be another path of the engine's API. */
const CONTAINER_NAME = /^[a-zA-Z0-9][\w.-]*$/;

const ENDING_POLL_MS = 50;
/** An agent that is to end waits no longer than this for a target that lacks pages and has lost its way to them. */
const LOST_LIMIT_MS = 15_000;

interface Running {
  readonly session: SourceSession;
  readonly cancel: AbortController;
  readonly over: Promise<void>;
}

/** Makes the source's side of the migration logic. */
export function sourceMigrations(context: AgentContext): Migrations {
  const running = new Map<MigrationId, Running>();
  /** What this agent took up of one before it, after the commit. */
  const takenUp = new Map<MigrationId, TakenUp>();
  const doubts = new Doubts();
  let isEnding = false;
  /** Whether an agent that is to end waits for it. What is in doubt, or has no way to its target, the next one takes up. */
  const isWaitedFor = (id: MigrationId, session: SourceSession | TakenUp): boolean =>
    doubts.about(id) === undefined && session.lostForMs < LOST_LIMIT_MS;
  return {
    recover: () => recoverMigrations(context, doubts, takenUp),
    async migrate(request: MigrateRequest): Promise<MigrationId> {
      const { engine, description, initPid } = await findMovable(context, request.container, request.target);
      if (isEnding) throw new DmigrateError("AGENT", "This agent has been told to end; migrate once the next one runs");
      const id = newMigrationId(randomBytes(8).readBigUInt64LE());
      context.journal.begin({
        id,
        role: "source",
        container: description.name,
        containerId: description.id,
        peer: request.target,
        detail: { mode: request.mode },
      });
      const cancel = new AbortController();
      const session = new SourceSession(new SourceScope(context, engine, { id, request, description, initPid }, cancel.signal), doubts);
      const over = session.run().then((report) => {
        context.events.end(id, report);
        running.delete(id);
      });
      running.set(id, { cancel, over, session });
      return id;
    },
    isUnderWay: (id) => running.has(id),
    async check(container: string, target: HostName, mode: RequestableMode, options?: CallOptions): Promise<CheckResult> {
      const { engine, description } = await findMovable(context, container, target);
      context.journal.assertFree(description.name);
      const { findings, passed } = await runPreflight(context, engine, description, { target, mode }, options);
      return { container: description.name, source: context.self(), target, findings, passed };
    },
    async cancel(id, { takeBack }) {
      const { peer, state } = context.journal.get(id);
      const doubt = doubts.about(id);
      if (doubt !== undefined) {
        if (!takeBack) throw new DmigrateError("CANCEL_TOO_LATE", doubt);
        doubts.takeBack(id);
        return await context.events.ended(id);
      }
      const migration = running.get(id);
      if (migration === undefined && !takenUp.has(id))
        throw new DmigrateError(
          "MIGRATION_NOT_FOUND",
          `No migration ${id} is under way from this host; \`dmigrate list\` shows those it knows`,
        );
      if (migration === undefined || state !== "running")
        throw new DmigrateError(
          "CANCEL_TOO_LATE",
          `Migration ${id} is handed over: the container belongs to ${peer} now; \`dmigrate watch ${id}\` follows it, ` +
            "migrate back once it has ended",
        );
      migration.cancel.abort(new DmigrateError("CANCELLED", "The migration was cancelled; the container keeps running here"));
      await migration.over;
    },
    async [Symbol.asyncDispose]() {
      isEnding = true;
      for (const [id, { cancel }] of running) {
        if (context.journal.get(id).state === "running") cancel.abort(agentEnds());
        else context.log.warn({ migration: id }, "ends once all memory has crossed; if this agent is killed the next one goes on");
      }
      while (
        [...running].some(([id, { session }]) => isWaitedFor(id, session)) ||
        [...takenUp].some(([id, taken]) => isWaitedFor(id, taken))
      )
        await sleep(ENDING_POLL_MS);
    },
  };
}

/** Finds a running container that may go to `target`. Throws what a user can have mistyped. */
async function findMovable(
  context: AgentContext,
  container: string,
  target: HostName,
): Promise<{ engine: Engine; description: ContainerDescription; initPid: number }> {
  context.peers.to(target);
  const nameOrId = container.replace(/^\//, ""); // `docker inspect` shows names so
  if (!CONTAINER_NAME.test(nameOrId)) {
    throw new DmigrateError(
      "CONTAINER_NOT_FOUND",
      `No container can be called ${JSON.stringify(container)}; \`docker ps\` shows those there are`,
    );
  }
  const engine = await Engine.connect(context.config.dockerSocket);
  const description = await describe(engine, nameOrId);
  const { name } = description;
  const { State } = await engine.inspectContainer(description.id);
  await assertOurs(context, description, State.Running && !State.Paused ? State.Pid : undefined);
  if (State.Restarting) {
    const text = `Container ${name} ends as soon as it is started; \`docker logs ${name}\` may tell why`;
    throw new DmigrateError("CONTAINER_NOT_RUNNING", text);
  }
  if (!State.Running) {
    throw new DmigrateError("CONTAINER_NOT_RUNNING", `Container ${name} does not run; start it with \`docker start ${name}\``);
  }
  return { engine, description, initPid: State.Pid };
}

/** Throws PREFLIGHT_BLOCKED for what a migration left here, frozen, of a container that belongs to another host. */
async function assertOurs(context: AgentContext, { id, name }: ContainerDescription, initPid: number | undefined): Promise<void> {
  const left = context.journal.list().find((each) => each.containerId === id && each.role === "source" && each.state === "failed");
  if (left === undefined || initPid === undefined || !(await (await freezerOf(initPid)).isFrozen())) return;
  throw new DmigrateError(
    "PREFLIGHT_BLOCKED",
    `${name} belongs to ${left.peer}: what is here was left, frozen, by migration ${left.id}; ` +
      `\`dmigrate report ${left.id}\` says what to do`,
  );
}

function agentEnds(): DmigrateError {
  const text = "The agent was told to end; the container keeps running here, migrate it again once an agent runs";
  return new DmigrateError("CANCELLED", text);
}
