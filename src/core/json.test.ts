/**
 * JSON with 64-bit integers.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parseExact, stringifyExact } from "./json.ts";

test("64-bit integers come back digit by digit, everything else as JSON has it", () => {
  fc.assert(
    fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n - 1n }), fc.jsonValue(), (integer, value) => {
      const text = `{"integer":[${integer}],"value":${JSON.stringify(value)}}`;
      assert.equal(stringifyExact(parseExact(text)), text);
    }),
  );
});

test("an integer that a double holds is a number", () => {
  assert.equal(parseExact("9007199254740991"), 9007199254740991);
  assert.equal(parseExact("-3"), -3);
});
