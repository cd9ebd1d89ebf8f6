/** The areas of threads, from images as CRIU 4.2 writes them. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { numberField } from "./image-entries.ts";
import { bytesField, imageOf } from "./image-fixture.ts";
import { readKernelAreas } from "./restartable-sequences.ts";

const core = (address: number): number[] =>
  bytesField(5, [
    ...numberField(2, 24),
    ...bytesField(15, [...numberField(1, address), ...numberField(2, 32), ...numberField(3, 0x53053053)]),
  ]);

test("each process has those of its threads that have registered one", (t) => {
  const images = mkdtempSync(path.join(tmpdir(), "dmigrate-rseq-"));
  t.after(() => rmSync(images, { recursive: true }));
  const process = (pid: number, threads: readonly number[]): number[] => [
    ...[pid, 0, 1, 1].flatMap((value, at) => numberField(at + 1, value)),
    ...threads.flatMap((thread) => numberField(5, thread)),
  ];
  writeFileSync(path.join(images, "pstree.img"), imageOf(0, [process(1, [1, 7]), process(9, [9, 10])]));
  for (const [thread, message] of [
    [1, core(0x7fa6b1bfdaa0)],
    [7, core(0x1000)],
    [9, bytesField(5, numberField(2, 24))],
  ] as const)
    writeFileSync(path.join(images, `core-${thread}.img`), imageOf(0, [message]));
  const areas = [0x7fa6b1bfdaa0, 0x1000].map((start) => ({ start, end: start + 32 }));
  assert.deepEqual(
    readKernelAreas(images),
    new Map([
      [1, areas],
      [9, []],
    ]),
  );
});
