/** Lazy ranges in pagemap images: those that CRIU wrote, and those that are added. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { entriesOf, fieldsOf, numberField } from "./image-entries.ts";
import { imageOf } from "./image-fixture.ts";
import { addLazyRanges, lazyPageCount, readLazyRanges } from "./pagemap.ts";

const PAGE_BYTES = 4096;
const PRESENT = 4;
const entry = (page: number, pageCount: number, flags: number): number[] => [
  ...numberField(1, page * PAGE_BYTES),
  ...numberField(2, pageCount),
  ...numberField(4, flags),
];

test("added ranges stand among the others in the order of addresses, and the others stay as they are", async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "dmigrate-pagemap-"));
  try {
    const file = path.join(folder, "pagemap-1.img");
    writeFileSync(file, imageOf(0x56084025, [numberField(1, 1), entry(16, 2, PRESENT), entry(1 << 30, 1, PRESENT)]));
    addLazyRanges(
      folder,
      new Map([
        [
          1,
          [
            { start: 32 * PAGE_BYTES, end: 40 * PAGE_BYTES },
            { start: 2 ** 46, end: 2 ** 46 + PAGE_BYTES },
          ],
        ],
      ]),
    );
    const lazy = await readLazyRanges(folder);
    assert.deepEqual(
      lazy,
      new Map([
        [
          1,
          [
            { page: 32, pageCount: 8 },
            { page: 2 ** 34, pageCount: 1 },
          ],
        ],
      ]),
    );
    assert.equal(lazyPageCount(lazy), 9);
    const image = readFileSync(file);
    const addresses = [...entriesOf(image)].map(({ start, end }) => fieldsOf(image, start, end).next().value?.value);
    assert.deepEqual(
      addresses,
      [1n, 16n, 32n, 2n ** 30n, 2n ** 34n].map((value, at) => (at === 0 ? value : value * 4096n)),
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("a page that CRIU has dumped can't come later, too", () => {
  const folder = mkdtempSync(path.join(tmpdir(), "dmigrate-pagemap-"));
  try {
    const image = imageOf(0x56084025, [numberField(1, 1), entry(16, 2, PRESENT)]);
    writeFileSync(path.join(folder, "pagemap-1.img"), image);
    for (const [start, end] of [
      [15, 17],
      [16, 17],
      [17, 18],
      [15, 19],
    ] as const)
      assert.throws(() => addLazyRanges(folder, new Map([[1, [{ start: start * PAGE_BYTES, end: end * PAGE_BYTES }]]])), {
        code: "DUMP_FAILED",
      });
    assert.deepEqual(readFileSync(path.join(folder, "pagemap-1.img")), image);
    addLazyRanges(folder, new Map([[2, []]])); // of a zombie there is no image
  } finally {
    rmSync(folder, { recursive: true });
  }
});
