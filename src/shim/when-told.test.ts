/** A program that waits for its configuration: it gets it when that is said, and ends when it never will be. */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { temporaryDirectory } from "../../test/support/hosts.ts";

const SCRIPT = fileURLToPath(new URL("when-told", import.meta.url));
/** Says its process id, and that of a child, which waits for the configuration as CRIU does for runc's; ends as the child does. */
const WAITS = 'echo $$ > "$0.pids.new"; cat "$1" > "$0.read" & echo $! >> "$0.pids.new"; mv "$0.pids.new" "$0.pids"; wait $!';

async function start(t: TestContext, program: string) {
  const folder = temporaryDirectory(t);
  const [configuration, pipe, out] = ["criu.conf", "criu.conf.pipe", "out"].map((name) => path.join(folder, name));
  writeFileSync(configuration ?? "", "option\n");
  execFileSync("mkfifo", [pipe ?? ""]);
  const child = spawn("sh", [SCRIPT, configuration ?? "", pipe ?? "", "sh", "-c", program, out ?? "", pipe ?? ""], {
    stdio: ["pipe", "ignore", "inherit"],
    detached: true,
  });
  return { child, ended: once(child, "close"), out: out ?? "" };
}

async function pidsIn(file: string): Promise<number[]> {
  while (!existsSync(file)) await sleep(2);
  return readFileSync(file, "utf8").trim().split("\n").map(Number);
}

test("told to go, the program gets its configuration, and its end is the script's", { timeout: 20_000 }, async (t) => {
  const { child, ended, out } = await start(t, WAITS);
  await pidsIn(`${out}.pids`);
  child.stdin.write("go\n");
  assert.deepEqual(await ended, [0, null]);
  assert.equal(readFileSync(`${out}.read`, "utf8"), "option\n");
});

test("not told any more, it ends with all that it has started", { timeout: 20_000 }, async (t) => {
  const { child, ended, out } = await start(t, WAITS);
  const pids = await pidsIn(`${out}.pids`);
  while (!existsSync(`${out}.read`)) await sleep(2); // its child waits for the configuration
  child.stdin.end();
  assert.deepEqual(await ended, [null, "SIGKILL"]);
  for (const pid of pids) while (existsSync(`/proc/${pid}/exe`)) await sleep(2);
  assert.equal(readFileSync(`${out}.read`, "utf8"), "");
});

test("a program that ends before it has read anything leaves nobody waiting", { timeout: 20_000 }, async (t) => {
  const { child, ended } = await start(t, "exit 1");
  child.stdin.end("go\n");
  await ended;
});
