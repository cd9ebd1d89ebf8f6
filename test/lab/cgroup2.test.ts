/**
 * Hosts with cgroup v2 alone, as stock machines of today are: freezing, fence, restore and rollback work by what is found there.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdir, rmdir } from "node:fs/promises";
import path from "node:path";
import { after, before, test } from "node:test";
import { hierarchies, isUnifiedOnly } from "../../lab/cgroups.ts";
import type { Host } from "../../lab/host.ts";
import { redisImage } from "../../lab/images/catalogue.ts";
import type { Lab } from "../../lab/lab.ts";
import {
  assertClean,
  assertRuns,
  assertUnnoticed,
  beforeRestores,
  labOf,
  migrate,
  runContainer,
  startRedisClient,
  whileRestoring,
} from "../support/lab.ts";

const ADDRESS = "10.77.0.204";
let lab: Lab;
let [a, b]: Host[] = [];

before(async () => {
  lab = await labOf({ name: "tcg2", hosts: ["a", "b", "other"], cgroup2: ["a", "b"] });
  [a, b] = [lab.host("a"), lab.host("b")];
  await runContainer(a, "redis", redisImage, "--ip", ADDRESS, "--restart", "always");
});
after(() => lab.down());

const hosts = (): { a: Host; b: Host } => {
  assert.ok(a !== undefined && b !== undefined);
  return { a, b };
};

test("the hosts have no other hierarchy, and Docker uses it", async () => {
  for (const host of [hosts().a, hosts().b]) {
    assert.doesNotMatch(await host.run("cat", "/proc/mounts"), / cgroup /);
    assert.equal((await host.run("docker", "info", "--format", "{{.CgroupVersion}}")).trim(), "2");
  }
});

test("a redis under load moves there and back, also after a restore that failed", async () => {
  const { a: here, b: there } = hosts();
  const client = startRedisClient(lab, ADDRESS, "gentle");
  await client.ready();
  const repair = await beforeRestores(there, "exit 1");
  const failed = await migrate(here, "redis", "b");
  await repair();
  assert.deepEqual([failed.outcome, failed.errorCode], ["rolled-back", "RESTORE_FAILED"], failed.message);
  await assertClean(there, "redis");
  for (const [source, target] of [
    [here, there],
    [there, here],
  ] as const) {
    await assertRuns(source, "redis");
    const { outcome, message } = await migrate(source, "redis", target.name);
    assert.equal(outcome, "completed", message);
    await assertClean(source, "redis");
  }
  await assertUnnoticed(client);
});

test("cgroups of others on the source, in a hierarchy that Docker does not use, do not come along", async (t) => {
  if (isUnifiedOnly(hierarchies())) return t.skip("this machine has cgroup v2 alone");
  const { a: source, b: target } = hosts();
  const neighbours = hierarchies()
    .filter(({ options }) => options !== undefined)
    .map(({ mountPoint }) => path.join(mountPoint, "tcg2-neighbour"));
  t.after(() => Promise.all(neighbours.map((folder) => rmdir(folder).catch(() => {})))); // if the migration did not come so far
  await Promise.all(neighbours.map((folder) => mkdir(folder)));
  const { outcome, message } = await whileRestoring(source, target, () => Promise.all(neighbours.map((folder) => rmdir(folder))));
  assert.equal(outcome, "completed", message);
  assert.deepEqual(neighbours.filter(existsSync), []);
});

test("a host with cgroup v1 is refused", async (t) => {
  if (isUnifiedOnly(hierarchies())) return t.skip("this machine has cgroup v2 alone");
  const { errorCode, message } = await migrate(hosts().b, "redis", "other");
  assert.equal(errorCode, "PREFLIGHT_BLOCKED");
  assert.match(message, /cgroup/);
  return await assertRuns(hosts().b, "redis");
});
