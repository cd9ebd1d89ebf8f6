/** Whole trees in rounds: what arrives is what was there, whatever happened to it meanwhile. */
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import * as fc from "fast-check";
import { treeDigest } from "./digest.ts";
import { anyChange, describe, overlay, plain, temporary, type Change, type MountedTree } from "./fixture.ts";
import { clearTree } from "./remove.ts";
import { TreeSource } from "./tree-source.ts";
import { TreeTarget } from "./tree-target.ts";

const changes = fc.array(anyChange, { maxLength: 40 });
const LOWER: readonly Change[] = fc.sample(anyChange, { numRuns: 150, seed: 7 });

async function collect(stream: AsyncIterable<Uint8Array>, meanwhile: () => void): Promise<Uint8Array[]> {
  const all: Uint8Array[] = [];
  for await (const bytes of stream) {
    all.push(Uint8Array.from(bytes));
    meanwhile();
  }
  return all;
}

async function* cut(chunks: readonly Uint8Array[], size: number): AsyncGenerator<Uint8Array, void> {
  const all = Buffer.concat(chunks);
  for (let at = 0; at < all.length; at += size) yield all.subarray(at, at + size);
}

/** Three rounds with changes before, and while, each but the last runs; then both trees must be the same to whoever looks. */
async function copyInRounds(
  source: MountedTree,
  target: MountedTree,
  rounds: readonly Change[][],
  during: readonly Change[],
): Promise<void> {
  const from = new TreeSource(source.tree);
  const to = new TreeTarget(target.tree);
  const left = [...during];
  for (const [i, round] of rounds.entries()) {
    for (const each of round) each.apply(source.path);
    const frozen = i === rounds.length - 1;
    const sent = await collect(from.round({ frozen }), () => {
      if (!frozen) for (const each of left.splice(0, 10)) each.apply(source.path);
    });
    await to.apply(cut(sent, 65_537), target.path);
  }
  assert.deepEqual(describe(target.path), describe(source.path));
  assert.equal(await treeDigest({ kind: "plain", root: target.path }), await treeDigest({ kind: "plain", root: source.path }));
}

test("a writable layer arrives as it is, whatever is done to it between and during the rounds", async (t) => {
  const base = temporary(t);
  const lower = join(base, "lower");
  mkdirSync(lower);
  for (const each of LOWER) each.apply(lower);
  const property = fc.asyncProperty(changes, changes, changes, changes, async (first, second, third, during) => {
    const run = { source: join(base, "source"), target: join(base, "target") };
    try {
      using source = overlay(run.source, lower);
      using target = overlay(run.target, lower);
      await copyInRounds(source, target, [first, second, third], during);
    } finally {
      clearTree(run.source);
      clearTree(run.target);
    }
  });
  await fc.assert(property, { numRuns: 40 });
});

test("a volume arrives as it is, whatever was in the target's", async (t) => {
  const base = temporary(t);
  const property = fc.asyncProperty(changes, changes, changes, changes, async (first, second, garbage, during) => {
    const [source, target] = [plain(join(base, "source")), plain(join(base, "target"))];
    for (const each of garbage) each.apply(target.path);
    await copyInRounds(source, target, [first, second], during);
    clearTree(source.path);
    clearTree(target.path);
  });
  await fc.assert(property, { numRuns: 40 });
});
