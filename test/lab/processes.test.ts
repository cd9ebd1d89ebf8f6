/**
 * Containers of many processes move there and back, with all of their connections, and nothing lost.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Lab } from "../../lab/lab.ts";
import { startPostgres, startPreforking } from "../../lab/workloads/many-processes.ts";
import { assertClean, assertRuns, labOfTwo, migrate } from "../support/lab.ts";

/** Backends that serve connections, and workers. */
const CONNECTIONS = 20;
/** As much as crosses in some seconds, there and back, also within the budget of a host that is busy. */
const FILLED_MEGABYTES = 64;

let lab: Lab;
before(async () => {
  lab = await labOfTwo("tproc");
});
after(() => lab.down());

async function moveThereAndBack(container: string): Promise<void> {
  const [a, b] = [lab.host("a"), lab.host("b")];
  for (const [source, target] of [
    [a, b],
    [b, a],
  ] as const) {
    const { outcome, message, report } = await migrate(source, container, target.name, {}, "post-copy", { verify: true });
    assert.equal(outcome, "completed", message);
    assert.equal(report?.verification?.different, 0);
    await assertRuns(target, container);
    await assertClean(source, container);
  }
}

test("a PostgreSQL with twenty backends has every transaction that was committed once, over the same connections", async () => {
  const subject = { name: "postgres", address: "10.77.0.210", connections: CONNECTIONS, pauseMs: 20 };
  const client = await startPostgres(lab, lab.host("a"), subject, FILLED_MEGABYTES);
  await moveThereAndBack("postgres");
  const { commits, lostCommits, doubledCommits, connections, errors, faults } = await client.stop();
  const noticed = { lostCommits, doubledCommits, connections, errors };
  assert.deepEqual(noticed, { lostCommits: 0, doubledCommits: 0, connections: CONNECTIONS, errors: 0 }, faults.join("\n"));
  assert.ok(commits > CONNECTIONS);
  await lab.host("a").run("docker", "rm", "--force", "postgres");
});

test("a pre-forking server with twenty workers gives each of as many clients its numbers back once", async () => {
  const subject = { name: "preforking", address: "10.77.0.211", connections: CONNECTIONS, pauseMs: 20 };
  const client = await startPreforking(lab, lab.host("a"), subject);
  await moveThereAndBack("preforking");
  assert.match(await lab.host("a").run("docker", "exec", "preforking", "check"), /^OK /);
  const { connections, errors, faults } = await client.stop();
  assert.deepEqual({ connections, errors }, { connections: CONNECTIONS, errors: 0 }, faults.join("\n"));
});
