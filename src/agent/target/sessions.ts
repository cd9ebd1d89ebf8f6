/**
 * All migrations to this host: finds the session a call is for.
 */
import { DmigrateError, tryAll } from "../../core/errors.ts";
import type { MigrationId } from "../../core/ids.ts";
import { readDescription } from "../../docker/description.ts";
import { Engine } from "../../docker/engine.ts";
import { awaitLoads } from "../../docker/images.ts";
import { giveBackPolicy } from "../../docker/lifecycle.ts";
import { despiteRestart } from "../../docker/restart.ts";
import { unless } from "../../docker/transport.ts";
import { readArriving } from "../../preflight/schema.ts";
import { hostFactsOf } from "../host-facts.ts";
import type { AgentContext } from "../context.ts";
import { removeMigrationFolder } from "../migration-folder.ts";
import type { ReserveRequest, Reservation, TargetSessions } from "../migrations.ts";
import type { MigrationRecord } from "../journal.ts";
import { Made } from "./made.ts";
import { TargetSession } from "./session.ts";
import { forgetCreating, orphan } from "./staged-folder.ts";
import { Undoing } from "./undoing.ts";

/** Makes the target's side of the migration logic. */
export function targetSessions(context: AgentContext): TargetSessions {
  const sessions = new Map<MigrationId, TargetSession>();
  const undoing = new Undoing(context);
  let isEnding = false;
  const of = (id: MigrationId): TargetSession => {
    const session = sessions.get(id);
    if (session === undefined)
      throw new DmigrateError(
        "MIGRATION_NOT_FOUND",
        `This host knows no migration ${id} that is under way; its agent may have been restarted`,
      );
    return session;
  };
  return {
    async recover() {
      for (const record of context.journal.unfinished("target")) await recoverSession(context, undoing, record);
    },
    facts: (arriving) => hostFactsOf(context, readArriving(arriving)),
    async reserve({ migration, source, description: text, verify }: ReserveRequest): Promise<Reservation> {
      if (isEnding) throw new DmigrateError("AGENT", "This agent has been told to end; migrate once the next one runs");
      const description = readDescription(text);
      if (verify && context.config.pageHandler !== "own")
        throw new DmigrateError(
          "PREFLIGHT_BLOCKED",
          "The agent of the target runs with --page-handler criu, which can't say what tasks were given; migrate without --verify",
        );
      const subject = { id: migration, source, description, verify };
      const engine = await Engine.connect(context.config.dockerSocket);
      context.journal.begin({
        id: migration,
        role: "target",
        container: description.name,
        containerId: description.id,
        peer: source,
        detail: {},
      });
      const session = new TargetSession(context, engine, subject, undoing);
      sessions.set(migration, session);
      void session.ended.then(() => sessions.delete(migration));
      try {
        return await session.reserve();
      } catch (error) {
        await session.abort(); // the source may be gone already: nobody else would
        throw error;
      }
    },
    createContainer: (id) => of(id).createContainer(),
    stage: (id, request) => of(id).stage(request),
    restore: (id, request) => of(id).restore(request),
    commit: (id, heldPackets) => of(id).commit(heldPackets),
    deliver: async (id, packets) => of(id).deliver(packets),
    signal: async (id, signal) => {
      const { state, container } = context.journal.get(id);
      // All that was missing may have come meanwhile: the container is the engine's then.
      if (state === "completed") await (await Engine.connect(context.config.dockerSocket)).killContainer(container, signal);
      else await of(id).signal(signal);
    },
    awaitPages: (id) => of(id).awaitPages(),
    digests: (id) => of(id).digests(),
    finish: (id) => of(id).finish(),
    async abort(id) {
      const session = sessions.get(id);
      if (session !== undefined) return await session.abort();
      if (context.journal.get(id).state !== "rolled-back") await (undoing.again(id) ?? of(id).abort());
    },
    async [Symbol.asyncDispose]() {
      isEnding = true;
      await tryAll([...[...sessions.values()].map((session) => () => session.end()), async () => undoing[Symbol.dispose]()]);
    },
  };
}

/**
 * Ends a session of an earlier agent. Its staged container ended with that agent (src/shim), so unless it was committed nobody
 * runs it here, and what was made for it is removed. If it was, it lacks the memory that had not come by then, unless all of it had to.
 */
async function recoverSession(context: AgentContext, undoing: Undoing, { id, state, beganAtMs }: MigrationRecord): Promise<void> {
  const removeFolder = (): Promise<void> => removeMigrationFolder(context.config, id);
  const made = new Made(context.journal, id);
  const leave = async (): Promise<void> => {
    if (made.container !== undefined) await orphan(made.container);
  };
  /** The agent may have ended before it gave it. */
  const givePolicy = async (): Promise<void> => {
    if (made.container === undefined || made.restartPolicy === undefined) return;
    const engine = await despiteRestart(() => Engine.connect(context.config.dockerSocket));
    const lacked = { sinceMs: beganAtMs, hasEngineEnded: await engine.hasBegunSince(beganAtMs) };
    await giveBackPolicy(engine, made.container, made.restartPolicy, () => lacked).catch(unless(404));
  };
  const undo = async (): Promise<void> => {
    const engine = await Engine.connect(context.config.dockerSocket);
    if (made.hasAddedImage) await awaitLoads(engine);
    await made.undo(engine);
  };
  if (state !== "owner") {
    await undoing.undo(id, () => tryAll([removeFolder, () => forgetCreating(id), undo])).catch(() => {}); // it has been logged, and goes on
    return;
  }
  try {
    await tryAll([removeFolder, leave]);
    context.journal.move(id, made.isWhole ? "completed" : "failed");
  } catch (error) {
    context.log.error({ err: error, migration: id }, "could not clean up after a migration");
  }
  void givePolicy().catch((error: unknown) => context.log.error({ err: error, migration: id }, "could not give a restart policy back"));
}
