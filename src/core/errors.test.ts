/** docs/errors.md and the codes say the same. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { DmigrateError, ERROR_CODES, isErrorCode, tryAll } from "./errors.ts";

const ROW = /^\| `(?<code>[A-Z_]+)` \| (?<exitCode>\d+) \| (?<fault>\w+) \| (?<meaning>.+) \| (?<remedy>.+) \|$/gm;

test("every code is documented, with its exit code and fault, and nothing else is", () => {
  const text = readFileSync(path.join(import.meta.dirname, "../../docs/errors.md"), "utf8");
  const documented = [...text.matchAll(ROW)].map(({ groups = {} }) => [
    groups["code"],
    { fault: groups["fault"], exitCode: Number(groups["exitCode"]) },
  ]);
  assert.deepEqual(Object.fromEntries(documented), ERROR_CODES);
  assert.equal(documented.length, Object.keys(ERROR_CODES).length, "a code is documented twice");
});

test("whatever was thrown becomes a DmigrateError that keeps it", () => {
  const cause = new RangeError("out of range");
  const error = DmigrateError.from(cause, "KERNEL");
  assert.deepEqual([error.code, error.message, error.cause, error.fault, error.exitCode], ["KERNEL", "out of range", cause, "host", 7]);
  assert.equal(DmigrateError.from(error), error);
  assert.equal(DmigrateError.from("a string").code, "INTERNAL");
});

test("a code of another release is none of ours", () => {
  assert.ok(isErrorCode("USAGE"));
  assert.ok(!isErrorCode("toString"));
});

test("of works that are all tried, every failure is told", async () => {
  const done: string[] = [];
  const succeeds = (name: string) => async () => void done.push(name);
  const fails = (error: Error) => async (): Promise<void> => {
    throw error;
  };
  const first = new DmigrateError("DOCKER", "a is in use; stop it");
  const second = new Error("b is away");
  await tryAll([succeeds("x"), succeeds("y")]);
  await assert.rejects(tryAll([fails(first), succeeds("z")]), first);
  await assert.rejects(tryAll([fails(first), fails(second)]), (error) => {
    assert.ok(error instanceof DmigrateError && error.cause instanceof AggregateError);
    assert.deepEqual([error.code, error.message], ["DOCKER", "a is in use; stop it; also: b is away"]);
    assert.deepEqual(error.cause.errors, [first, second]);
    return true;
  });
  assert.deepEqual(done, ["x", "y", "z"]);
});
