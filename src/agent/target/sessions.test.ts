/** Calls for a migration whose session is over, with an engine that says yes to everything. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import path from "node:path";
import { test } from "node:test";
import { startAgent } from "../../../test/support/agents.ts";
import { temporaryDirectory } from "../../../test/support/hosts.ts";
import { containerId, hostName, newMigrationId } from "../../core/ids.ts";
import { targetSessions } from "./sessions.ts";

test("a signal reaches a container whose migration ended just before, and none that is not here", async (t) => {
  const asked: string[] = [];
  const engine = createServer((request, response) => {
    asked.push(`${request.method} ${request.url}`);
    response.end(JSON.stringify({ Version: "28", ApiVersion: "1.47", MinAPIVersion: "1.24" }));
  });
  const dockerSocket = path.join(temporaryDirectory(t), "docker.sock");
  engine.listen(dockerSocket);
  await once(engine, "listening");
  t.after(() => engine.close());
  const { context } = await startAgent(t);
  await using sessions = targetSessions({ ...context, config: { ...context.config, dockerSocket }, self: () => hostName("b") });
  const common = { role: "target", containerId: containerId("c".repeat(64)), peer: hostName("a"), detail: {} } as const;
  const [moved, undone] = [newMigrationId(1n), newMigrationId(2n)];
  context.journal.begin({ ...common, id: moved, container: "web" });
  for (const state of ["prepared", "owner", "completed"] as const) context.journal.move(moved, state);
  context.journal.begin({ ...common, id: undone, container: "db" });
  context.journal.move(undone, "rolled-back");

  await sessions.signal(moved, 15);
  assert.match(asked.at(-1) ?? "", /^POST \/v1\.\d+\/containers\/web\/kill\?signal=15$/);
  await assert.rejects(sessions.signal(undone, 15), { code: "MIGRATION_NOT_FOUND" });
});

test("a container that an agent before this one has taken over with all of its memory lacks nothing, any other may", async (t) => {
  const { context } = await startAgent(t);
  await using sessions = targetSessions({ ...context, self: () => hostName("b") });
  const common = { role: "target", containerId: containerId("c".repeat(64)), peer: hostName("a") } as const;
  const [whole, other] = [newMigrationId(1n), newMigrationId(2n)];
  context.journal.begin({ ...common, id: whole, container: "web", detail: { isWhole: true } });
  context.journal.begin({ ...common, id: other, container: "db", detail: {} });
  for (const id of [whole, other]) for (const state of ["prepared", "owner"] as const) context.journal.move(id, state);
  await sessions.recover();
  assert.deepEqual([context.journal.get(whole).state, context.journal.get(other).state], ["completed", "failed"]);
});
