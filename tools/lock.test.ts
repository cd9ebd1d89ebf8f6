/** The lock file installs everywhere: no optional package of another platform is missing from it. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { missingEntries } from "./lock.ts";

const lock = JSON.parse(readFileSync(path.join(import.meta.dirname, "../package-lock.json"), "utf8"));

test("package-lock.json is complete", () => {
  assert.deepEqual(missingEntries(lock.packages), {});
});

test("a missing package of another platform is entered with that platform", () => {
  const packages = { "node_modules/tool": { dev: true, optionalDependencies: { "@tool/linux-x64-musl": "1.2.3" } } };
  assert.deepEqual(missingEntries(packages), {
    "node_modules/@tool/linux-x64-musl": { version: "1.2.3", dev: true, optional: true, os: ["linux"], cpu: ["x64"], libc: ["musl"] },
  });
  assert.deepEqual(missingEntries({ ...packages, ...missingEntries(packages) }), {});
});
