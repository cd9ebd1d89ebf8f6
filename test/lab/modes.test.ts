/**
 * Every mode moves a redis whose client notices nothing but a pause, and a program that never stops writing; what would not end, or have
 * it stand still for too long, is refused while it runs on.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { agentOf } from "../../lab/cluster.ts";
import { until, type Host } from "../../lab/host.ts";
import { redisImage, workloadsImage } from "../../lab/images/catalogue.ts";
import { LAN, type Lab } from "../../lab/lab.ts";
import { isWholeAtHandover } from "../../src/core/migration.ts";
import {
  assertClean,
  assertRuns,
  assertUnnoticed,
  labOf,
  migrate,
  migrateByCommand,
  provideImage,
  runContainer,
  startRedisClient,
  type Acts,
  type MigrateResult,
} from "../support/lab.ts";

const ADDRESS = "10.77.0.200";
const MEMORY_BYTES = 32 << 20;
/** Writes to all of its memory, again and again, in less time than that takes on the link, and sees whether each page is as it left it. */
const ENDLESS = `
import mmap, struct, sys
memory = mmap.mmap(-1, ${MEMORY_BYTES}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
turn = 0
while True:
    for place in range(0, len(memory), 4096):
        (seen,) = struct.unpack_from("q", memory, place)
        if seen != turn: sys.exit(f"page {place >> 12} is of turn {seen}, not {turn}")
        struct.pack_into("q", memory, place, turn + 1)
    turn += 1
    print(turn, flush=True)
`;

let lab: Lab;
let a: Host;
let b: Host;

before(async () => {
  lab = await labOf({ name: "tmodes", hosts: ["a", "b"], rate: "500mbit" });
  [a, b] = [lab.host("a"), lab.host("b")];
  const image = await provideImage(a, workloadsImage);
  await a.run("docker", "run", "--detach", "--name", "endless", "--network", LAN, "--entrypoint", "python3", image, "-c", ENDLESS);
  await runContainer(a, "redis", redisImage, "--ip", ADDRESS, "--restart", "always");
});
after(() => lab.down());

async function turnsOf(host: Host): Promise<number> {
  return (await host.run("docker", "logs", "endless")).trim().split("\n").length;
}

/** It runs there, has never missed a write, and goes on. */
async function assertGoesOn(host: Host): Promise<void> {
  await assertRuns(host, "endless");
  const turns = await turnsOf(host);
  await until("it to write all of its memory once more", async () => (await turnsOf(host)) > turns + 1);
}

async function assertMoved({ outcome, message }: MigrateResult, source: Host, target: Host, container: string): Promise<void> {
  assert.equal(outcome, "completed", message);
  await assertRuns(target, container);
  await assertClean(source, container);
}

/** Nobody but its source noticed anything, and that did not stand still for it unless it was frozen already. */
async function assertStays(result: MigrateResult, code: string, message: RegExp): Promise<void> {
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", code], result.message);
  assert.match(result.message, message);
  await assertClean(b, "endless");
  await assertGoesOn(a);
}

test("a redis moves over one connection, with nothing lost, in auto and with all memory there first; the prediction is kept", async () => {
  const client = startRedisClient(lab, ADDRESS, "gentle");
  await client.ready();
  let [source, target] = [a, b];
  for (const mode of ["auto", "pre-copy", "stop-and-copy"] as const) {
    const result = await migrate(source, "redis", target.name, {}, mode);
    await assertMoved(result, source, target, "redis");
    const { mode: taken, phases, pages, rounds, prediction } = result.report ?? assert.fail("no report");
    if (mode === "auto") assert.ok(taken === "warm" || taken === "post-copy");
    else assert.equal(taken, mode);
    assert.deepEqual([prediction?.requested, prediction?.mode], [mode, taken]);
    assert.equal(
      phases.some(({ name }) => name === "post-copy"),
      !isWholeAtHandover(taken),
    );
    assert.equal(pages.copiedAhead > 0, taken === "warm" || taken === "pre-copy");
    const copiedCount = rounds.reduce((sum, { pageCount }) => sum + pageCount, 0);
    assert.ok(copiedCount >= pages.copiedAhead && (pages.copiedAhead > 0 || rounds.length === 0), `${copiedCount} pages in rounds`);
    [source, target] = [target, source];
  }
  await assertUnnoticed(client);
});

test("a program that never stops writing is refused by pre-copy, in plain words, and runs on", async () => {
  const result = await migrate(a, "endless", "b", {}, "pre-copy");
  await assertStays(result, "NOT_CONVERGING", /^Pre-copy can't end: endless writes .* It keeps running here, and has lost nothing$/);
  assert.equal(result.report?.downtimeMs, 0);
});

test("a downtime that no mode is predicted to keep is refused before anything stands still", async () => {
  const result = await migrateByCommand(a, "endless", "b", "--max-downtime", "1");
  assert.equal(result.code, 4);
  await assertStays(result, "DOWNTIME_TOO_LONG", /^No mode is predicted to have endless stand still for 1 ms at most/);
  assert.equal(result.report?.downtimeMs, 0);
});

test("a migration whose memory crosses while all stands still can be cancelled as long as it does", async () => {
  const acts: Acts = {
    handover: async (id) => {
      using agent = agentOf(a);
      await agent.cancel(id, { takeBack: false });
    },
  };
  const result = await migrate(a, "endless", "b", acts, "stop-and-copy");
  await assertStays(result, "CANCELLED", /cancelled/);
  assert.ok((result.report?.downtimeMs ?? 0) > 0);
});

test("it moves in every other mode, and not a single write is missing", async () => {
  let [source, target] = [a, b];
  for (const mode of ["warm", "stop-and-copy", "auto"] as const) {
    const result = await migrate(source, "endless", target.name, {}, mode);
    await assertMoved(result, source, target, "endless");
    await assertGoesOn(target);
    if (mode === "auto") assert.equal(result.report?.mode, "post-copy"); // rounds would be of no use
    [source, target] = [target, source];
  }
});
