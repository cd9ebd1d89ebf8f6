/**
 * A program is tried again when it failed, and when it is another one.
 */
import assert from "node:assert/strict";
import { appendFileSync, chmodSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test, type TestContext } from "node:test";
import { temporaryDirectory } from "../../test/support/hosts.ts";
import { runOnce } from "./trials.ts";

/** A program of that name, on the path, that counts its runs. */
function programOf(t: TestContext, name: string) {
  const folder = temporaryDirectory(t);
  const [file, runs] = [path.join(folder, name), path.join(folder, "runs")];
  const before = process.env["PATH"];
  process.env["PATH"] = `${folder}:${before}`;
  t.after(() => (process.env["PATH"] = before));
  writeFileSync(runs, "");
  writeFileSync(file, `#!/bin/sh\necho run >> ${runs}\necho "$1"\n[ "$1" != fail ]\n`);
  chmodSync(file, 0o755);
  return { file, runCount: () => readFileSync(runs, "utf8").split("\n").length - 1 };
}

test("what worked is not tried again", async (t) => {
  const { runCount } = programOf(t, "trial-worked");
  for (let nth = 0; nth < 3; nth++) assert.deepEqual(await runOnce("trial-worked", ["a"]), { succeeded: true, said: "a\n" });
  assert.equal(runCount(), 1);
  assert.equal((await runOnce("trial-worked", ["b"])).said, "b\n");
  assert.equal(runCount(), 2);
});

test("what failed is tried again", async (t) => {
  const { runCount } = programOf(t, "trial-failed");
  for (let nth = 0; nth < 2; nth++) assert.equal((await runOnce("trial-failed", ["fail"])).succeeded, false);
  assert.equal(runCount(), 2);
});

test("another file of the same name is tried, and one whose content has changed", async (t) => {
  const { file, runCount } = programOf(t, "trial-changed");
  await runOnce("trial-changed", ["a"]);
  renameSync(file, `${file}.away`);
  assert.deepEqual(await runOnce("trial-changed", ["a"]), { succeeded: false, said: "trial-changed is not installed" });
  renameSync(`${file}.away`, file);
  await runOnce("trial-changed", ["a"]);
  assert.equal(runCount(), 2);
  appendFileSync(file, "exit 1\n");
  assert.equal((await runOnce("trial-changed", ["a"])).succeeded, false);
});
