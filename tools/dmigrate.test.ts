/** The command in a checkout: the published commands, and the lab. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import path from "node:path";
import { test } from "node:test";

const dmigrate = (...args: string[]): string =>
  spawnSync(path.join(import.meta.dirname, "../bin/dmigrate"), args, { encoding: "utf8" }).stdout;

test("a checkout has the lab and the demo too", () => {
  assert.match(dmigrate("--help"), /^ {2}migrate [^]*^Try out:\n {2}lab [^]*^ {2}demo /m);
  assert.match(dmigrate("lab", "--help"), /^ {2}up /m);
});
