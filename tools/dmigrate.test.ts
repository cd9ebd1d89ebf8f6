/** The command in a checkout: the published commands, and the lab; it sets itself up before the first of them, and only then. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test, type TestContext } from "node:test";
import { temporaryDirectory } from "../test/support/hosts.ts";

const SCRIPT = path.resolve(import.meta.dirname, "../bin/dmigrate");

const dmigrate = (...args: string[]): string => spawnSync(SCRIPT, args, { encoding: "utf8" }).stdout;

test("a checkout has the lab and the demo too", () => {
  assert.match(dmigrate("--help"), /^ {2}migrate [^]*^Try out:\n {2}lab [^]*^ {2}demo /m);
  assert.match(dmigrate("lab", "--help"), /^ {2}up /m);
});

/** A folder with the script, a Node that tells its arguments, and such a setup; returns how to run the script. */
function folderWith(t: TestContext, kind: "src" | "dist", setup: string): () => { stdout: string; stderr: string; status: number | null } {
  const root = temporaryDirectory(t);
  for (const folder of ["bin", kind]) mkdirSync(path.join(root, folder));
  cpSync(SCRIPT, path.join(root, "bin/dmigrate"));
  const scripts = { node: `echo "$1" | sed "s:.*/::"; shift; echo "$@"`, setup: `cd "$(dirname "$0")/.."; echo "setting up"; ${setup}` };
  for (const [name, text] of Object.entries(scripts)) writeFileSync(path.join(root, "bin", name), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  return () => {
    const { stdout, stderr, status } = spawnSync(path.join(root, "bin/dmigrate"), ["list", "--json"], { encoding: "utf8" });
    return { stdout, stderr, status };
  };
}

const RAN = { stderr: "", status: 0 };

test("a fresh checkout sets itself up, and tells so where no answer is", (t) => {
  const run = folderWith(t, "src", "mkdir node_modules; touch node_modules/.package-lock.json");
  assert.deepEqual(run(), { ...RAN, stdout: "dmigrate.ts\nlist --json\n", stderr: "setting up\n" });
  assert.deepEqual(run(), { ...RAN, stdout: "dmigrate.ts\nlist --json\n" });
});

test("one that cannot be set up runs nothing", (t) => {
  assert.deepEqual(folderWith(t, "src", "exit 1")(), { stdout: "", stderr: "setting up\n", status: 69 });
});

test("a package has nothing to set up", (t) => {
  assert.deepEqual(folderWith(t, "dist", "exit 1")(), { ...RAN, stdout: "dmigrate.js\nlist --json\n" });
});
