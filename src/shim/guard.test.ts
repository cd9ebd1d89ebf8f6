/** What a guard runs, and when. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";

const SCRIPT = fileURLToPath(new URL("dmigrate-guard", import.meta.url));

function start(t: TestContext) {
  const guard = spawn(SCRIPT, ["echo", "two words"], { stdio: ["pipe", "pipe", "inherit"] });
  t.after(() => guard.kill("SIGKILL"));
  let said = "";
  guard.stdout.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const ended = once(guard, "close").then(([status]: unknown[]) => ({ status, said }));
  return { guard, ended };
}

test("who holds its input ends: it runs its program", async (t) => {
  const { guard, ended } = start(t);
  guard.stdin.end();
  assert.deepEqual(await ended, { status: 0, said: "two words\n" });
});

test("told that it need not, it does not", async (t) => {
  const { guard, ended } = start(t);
  guard.stdin.end("ended\n");
  assert.deepEqual(await ended, { status: 0, said: "" });
});
