/**
 * Hosts whose Docker Engine remaps user ids: what moves between them, and how what can't is refused.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { redisImage } from "../../lab/images/catalogue.ts";
import type { Lab } from "../../lab/lab.ts";
import { assertClean, assertRuns, labOf, migrate, runContainer } from "../support/lab.ts";

let lab: Lab;

before(async () => {
  lab = await labOf({ name: "tuser", hosts: ["a", "b", "plain"], usernsRemap: ["a", "b"] });
});
after(() => lab.down());

test("a container with --userns=host moves between them, and to a host that does not remap", async () => {
  await runContainer(lab.host("a"), "redis", redisImage, "--userns", "host", "--volume", "data:/data");
  await lab.host("a").run("docker", "exec", "redis", "redis-cli", "set", "key", "value");
  for (const [from, to] of [
    ["a", "b"],
    ["b", "plain"],
  ] as const) {
    const result = await migrate(lab.host(from), "redis", to);
    assert.deepEqual([result.code, result.outcome], [0, "completed"], result.message);
    await assertClean(lab.host(from), "redis");
    assert.equal((await lab.host(to).run("docker", "exec", "redis", "redis-cli", "get", "key")).trim(), "value");
  }
});

test("one with remapped ids stays, and so does one whose ids would be remapped", async () => {
  await runContainer(lab.host("a"), "remapped", redisImage);
  const remapped = await migrate(lab.host("a"), "remapped", "b");
  assert.equal(remapped.errorCode, "PREFLIGHT_BLOCKED");
  assert.match(remapped.message, /The container's root is user [1-9]\d+, group [1-9]\d+ on a: .*; run it with --userns=host$/);
  await assertRuns(lab.host("a"), "remapped");
  await assertClean(lab.host("b"), "remapped");

  await runContainer(lab.host("plain"), "common", redisImage);
  const common = await migrate(lab.host("plain"), "common", "b");
  assert.equal(common.errorCode, "PREFLIGHT_BLOCKED");
  assert.match(common.message, /The container's root is user 0, group 0 on plain, but would be user [1-9]\d+/);
  await assertRuns(lab.host("plain"), "common");
});
