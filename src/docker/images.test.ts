/**
 * Chain ids.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { chainIds } from "./images.ts";

const digest = (text: string): string => `sha256:${createHash("sha256").update(text).digest("hex")}`;

test("a chain id names a layer with all below it", () => {
  const [a, b, c] = ["a", "b", "c"].map(digest) as [string, string, string];
  const ab = digest(`${a} ${b}`);
  assert.deepEqual(chainIds([]), []);
  assert.deepEqual(chainIds([a, b, c]), [a, ab, digest(`${ab} ${c}`)]);
  assert.notEqual(chainIds([b, a]).at(-1), ab);
});
