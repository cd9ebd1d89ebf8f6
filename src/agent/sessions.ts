/**
 * The migration logic of an agent: its two sides.
 */
import { messageOf } from "../core/errors.ts";
import { Engine } from "../docker/engine.ts";
import type { StartSessions } from "./context.ts";
import { sourceMigrations } from "./source/migrations.ts";
import { targetSessions } from "./target/sessions.ts";

/** Makes both sides. Docker Engine is asked for by each migration: it may be restarted while the agent runs. */
export const startSessions: StartSessions = (context) => {
  Engine.connect(context.config.dockerSocket).catch((error: unknown) =>
    context.log.warn(`no container can migrate yet: ${messageOf(error)}`),
  );
  return { migrations: sourceMigrations(context), targets: targetSessions(context) };
};
