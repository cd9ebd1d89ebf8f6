/** Lazy ranges in pagemap images: those that CRIU wrote, and those that are added. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { entriesOf, fieldsOf, numberField } from "./image-entries.ts";
import { imageOf } from "./image-fixture.ts";
import { lazyRanges, withLazyRanges } from "./pagemap.ts";

const PAGE_BYTES = 4096;
const PRESENT = 4;
const entry = (page: number, pageCount: number, flags: number): number[] => [
  ...numberField(1, page * PAGE_BYTES),
  ...numberField(2, pageCount),
  ...numberField(4, flags),
];

test("added ranges stand among the others in the order of addresses, and the others stay as they are", () => {
  const image = imageOf(0x56084025, [numberField(1, 1), entry(16, 2, PRESENT), entry(1 << 30, 1, PRESENT)]);
  const amended = withLazyRanges(image, [
    { start: 32 * PAGE_BYTES, end: 40 * PAGE_BYTES },
    { start: 2 ** 46, end: 2 ** 46 + PAGE_BYTES },
  ]);
  assert.deepEqual(lazyRanges(amended), [
    { page: 32, pageCount: 8 },
    { page: 2 ** 34, pageCount: 1 },
  ]);
  const addresses = [...entriesOf(amended)].map(({ start, end }) => fieldsOf(amended, start, end).next().value?.value);
  assert.deepEqual(
    addresses,
    [1n, 16n, 32n, 2n ** 30n, 2n ** 34n].map((value, at) => (at === 0 ? value : value * 4096n)),
  );
});

test("a page that CRIU has dumped can't come later, too", () => {
  const image = imageOf(0x56084025, [numberField(1, 1), entry(16, 2, PRESENT)]);
  for (const [start, end] of [
    [15, 17],
    [16, 17],
    [17, 18],
    [15, 19],
  ] as const)
    assert.throws(() => withLazyRanges(image, [{ start: start * PAGE_BYTES, end: end * PAGE_BYTES }]), { code: "DUMP_FAILED" });
});

test("a map of pages of no memory that there is, is refused", () => {
  const LAZY = 2;
  const long = (page: number, pageCount: number): number[] => [
    ...numberField(1, BigInt(page) * 4096n),
    ...numberField(4, LAZY),
    ...numberField(5, pageCount),
  ];
  const cases: readonly (readonly number[])[][] = [
    [long(16, 2), long(17, 1)],
    [long(16, 2), long(3, 1)],
    [long(2 ** 45, 1)],
    [long(0, 2 ** 33)],
  ];
  for (const entries of cases) assert.throws(() => lazyRanges(imageOf(0x56084025, [numberField(1, 1), ...entries])), { code: "PROTOCOL" });
});
