/**
 * Parts of a benchmark: in their order, with how long is left.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { listOf, measureParts, type Part } from "./benchmark.ts";
import { told } from "./rows.ts";

function part(name: string, minutes: number): Part {
  const measure: Part["measure"] = async (say) => {
    say(`${name} goes on`);
    return [told(name, minutes, "min")];
  };
  return { name, about: `of ${name}`, minutes, measure };
}
const PARTS = [part("short", 1), part("long", 4), part("last", 2)];

test("what is left is told before each part, as slow as the machine has shown to be", async () => {
  const said: string[] = [];
  let minute = 0;
  const rows = [];
  for await (const some of measureParts(
    PARTS,
    (line) => said.push(line),
    () => minute * 60_000,
  )) {
    rows.push(...some);
    minute += 2 * (some[0]?.value ?? NaN);
  }
  assert.deepEqual(
    rows.map(({ name }) => name),
    ["short", "long", "last"],
  );
  assert.deepEqual(said, [
    "1 of 3, short: of short (about 7 min left)",
    "  short goes on",
    "2 of 3, long: of long (about 12 min left)",
    "  long goes on",
    "3 of 3, last: of last (about 4 min left)",
    "  last goes on",
  ]);
});

test("a list says what there is and how long it takes", () => {
  assert.deepEqual(listOf([{ name: "all", about: "everything", parts: [...PARTS, part("tiny", 0.1)] }]), [
    "all: everything (about 7 min)",
    "  short  of short (about 1 min)",
    "  long   of long (about 4 min)",
    "  last   of last (about 2 min)",
    "  tiny   of tiny (under 1 min)",
  ]);
});
