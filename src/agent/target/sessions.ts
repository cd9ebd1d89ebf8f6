/**
 * All migrations to this host: finds the session a call is for.
 */
import * as z from "zod";
import { DmigrateError } from "../../core/errors.ts";
import type { MigrationId } from "../../core/ids.ts";
import { readDescription } from "../../docker/description.ts";
import { Engine } from "../../docker/engine.ts";
import type { AgentContext } from "../context.ts";
import type { ReserveRequest, Reservation, TargetSessions } from "../migrations.ts";
import type { MigrationRecord } from "../journal.ts";
import { Made } from "./made.ts";
import { TargetSession } from "./session.ts";

/** Makes the target's side of the migration logic. */
export function targetSessions(context: AgentContext): TargetSessions {
  const sessions = new Map<MigrationId, TargetSession>();
  const of = (id: MigrationId): TargetSession => {
    const session = sessions.get(id);
    if (session === undefined) throw new DmigrateError("MIGRATION_NOT_FOUND", `This host knows no migration ${id} that is under way; its agent may have been restarted`);
    return session;
  };
  return {
    async recover() {
      for (const record of context.journal.unfinished("target")) await recoverSession(context, record);
    },
    facts: () => Promise.reject(new DmigrateError('INTERNAL','not yet')),
    async reserve({ migration, source, description: text }: ReserveRequest): Promise<Reservation> {
      const description = readDescription(z.string().parse(text));
      const subject = { id: migration, source, description };
      context.journal.begin({ id: migration, role: "target", container: description.name, containerId: description.id, peer: source, detail: {} });
      const engine = await Engine.connect(context.config.dockerSocket);
      const { session, reservation } = await TargetSession.reserve(context, engine, subject);
      sessions.set(migration, session);
      return reservation;
    },
    createContainer: (id) => of(id).createContainer(),
    stage: (id, criuOptions) => of(id).stage(criuOptions),
    restore: (id) => of(id).restore(),
    commit: (id, heldPackets) => of(id).commit(heldPackets),
    awaitPages: (id) => of(id).awaitPages(),
    async finish(id) {
      await of(id).finish();
      sessions.delete(id);
    },
    async abort(id) {
      await of(id).abort();
      sessions.delete(id);
    },
    async [Symbol.asyncDispose]() {},
  };
}

/**
 * Ends a session of an earlier agent. Its staged container ended with that agent (src/shim), so unless it was committed nobody
 * runs it here, and what was made for it is removed.
 */
async function recoverSession(context: AgentContext, { id, state }: MigrationRecord): Promise<void> {
  try {
    if (state === "owner") return context.journal.move(id, "failed");
    await new Made(context.journal, id).undo(await Engine.connect(context.config.dockerSocket));
    context.journal.move(id, "rolled-back");
  } catch (error) {
    context.log.error({ err: error, migration: id }, "could not clean up after a migration");
  }
}
