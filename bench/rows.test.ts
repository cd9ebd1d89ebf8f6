/**
 * The contract of every benchmark: rows of one shape, each with a name of its own.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { test } from "node:test";
import { promisify } from "node:util";
import { atLeast, atMost, jsonOf, quantile, renderRows, told } from "./rows.ts";

const RUN = fileURLToPath(new URL("run.ts", import.meta.url));

test("a row has a name, a value, a unit, a goal, and whether that is met", () => {
  const rows = [atMost("downtime", 190.5, "ms", 200), atLeast("speed", 1.5, "GB/s", 2), told("undisturbed", 3, "s")];
  assert.deepEqual(JSON.parse(jsonOf(rows)), {
    rows: [
      { name: "downtime", value: 190.5, unit: "ms", goal: "<= 200", met: true },
      { name: "speed", value: 1.5, unit: "GB/s", goal: ">= 2", met: false },
      { name: "undisturbed", value: 3, unit: "s", goal: "none", met: true },
    ],
  });
  assert.deepEqual(renderRows(rows), [
    "met    downtime          191 ms     goal <= 200",
    "MISSED speed            1.50 GB/s   goal >= 2",
    "       undisturbed      3.00 s      goal none",
  ]);
});

test("two rows of one name, and a value that is none, are refused", () => {
  const row = told("speed", 1, "GB/s");
  assert.throws(() => jsonOf([row, row]), /"speed" is there twice/);
  assert.throws(() => jsonOf([told("speed", NaN, "GB/s")]), /"speed" .* has no value/);
  assert.throws(() => quantile([]), RangeError);
});

test("a goal is not met by a value that is none", () => {
  assert.deepEqual([atMost("a", NaN, "ms", 1).met, atLeast("b", NaN, "ms", 1).met], [false, false]);
});

test("without a name the program lists what there is, and what there is not it refuses", async () => {
  const run = (...args: readonly string[]) => promisify(execFile)(process.execPath, [RUN, ...args]);
  const { stdout } = await run();
  const lines = stdout.split("\n").filter((line) => line.includes("min"));
  assert.ok(lines.length > 3 && lines.every((line) => line.length <= 140), stdout);
  for (const args of [["nothing"], ["page-plane", "--only", "demo,nothing"], ["page-plane", "nothing"]])
    await assert.rejects(run(...args), { code: 2, stderr: /There is no .*nothing to measure\. npm run bench/ });
});

test("--json prints the rows of the parts that were asked for, and nothing else", { skip: process.arch !== "x64" }, async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [RUN, "page-plane", "--only", "faults", "--json"]);
  const { rows } = JSON.parse(stdout);
  assert.equal(rows.length, 1);
  assert.deepEqual(Object.keys(rows[0]), ["name", "value", "unit", "goal", "met"]);
  assert.ok(rows[0].value > 0);
});
