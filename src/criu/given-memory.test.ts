/** Images whose memfds become files that CRIU is given. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test, type TestContext } from "node:test";
import { temporaryDirectory } from "../../test/support/hosts.ts";
import { mapGiven } from "./given-memory.ts";
import { entriesOf, fieldsOf, numberField } from "./image-entries.ts";
import { bytesField, imageOf } from "./image-fixture.ts";

const FILES_MAGIC = 0x56303138;
const MM_MAGIC = 0x57492820;
const OWNER = [...numberField(1, 0), ...numberField(2, 0)];
/** VMA_AREA_REGULAR and VMA_FILE_SHARED, and with VMA_AREA_MEMFD. */
const [SHARED_FILE, MEMFD] = [0x81, 0x4081];

const memfd = (id: number, inode: number): number[] => [
  ...numberField(1, 18),
  ...numberField(2, id),
  ...bytesField(20, [...numberField(1, id), ...numberField(2, 2), ...numberField(3, 0), ...bytesField(4, OWNER), ...numberField(5, inode)]),
];
const regular = (id: number): number[] => [...numberField(1, 1), ...numberField(2, id), ...bytesField(3, numberField(1, id))];
const mapping = (start: number, file: number, status: number): number[] =>
  bytesField(14, [...numberField(1, start), ...numberField(2, start + 4096), ...numberField(4, file), ...numberField(7, status)]);

/** A folder of images of two processes that share memory: files 2 and 5 are the same, 3 is another one. */
function images(t: TestContext): string {
  const folder = temporaryDirectory(t);
  const write = (name: string, image: Buffer): void => writeFileSync(path.join(folder, name), image);
  write("files.img", imageOf(FILES_MAGIC, [regular(1), memfd(2, 1), memfd(3, 2), regular(4), memfd(5, 1)]));
  write("mm-1.img", imageOf(MM_MAGIC, [[...mapping(0x1000, 2, MEMFD), ...mapping(0x3000, 3, MEMFD), ...mapping(0x5000, 1, SHARED_FILE)]]));
  write("mm-7.img", imageOf(MM_MAGIC, [[...mapping(0x1000, 5, MEMFD), ...mapping(0x3000, 4, SHARED_FILE)]]));
  return folder;
}

function statuses(folder: string, process: number): bigint[] {
  const image = readFileSync(path.join(folder, `mm-${process}.img`));
  return [...entriesOf(image)].flatMap(({ start, end }) =>
    [...fieldsOf(image, start, end)].map((vma) => [...fieldsOf(image, vma.start, vma.end)].find(({ number }) => number === 7)?.value ?? 0n),
  );
}

test("memory that is given becomes a file of that name wherever it is mapped, and nothing else does", (t) => {
  const folder = images(t);
  mapGiven(folder, [{ object: 9, process: 7, start: 0x1000 }]);
  assert.deepEqual(statuses(folder, 1), [SHARED_FILE, MEMFD, SHARED_FILE].map(BigInt));
  assert.deepEqual(statuses(folder, 7), [SHARED_FILE, SHARED_FILE].map(BigInt));
  const given = (id: number): number[] => {
    const name = [...Buffer.from("/dmigrate-shared-9")];
    const file = [...numberField(1, id), ...numberField(2, 2), ...numberField(3, 0), ...bytesField(5, OWNER), ...bytesField(6, name)];
    return [...numberField(1, 1), ...numberField(2, id), ...bytesField(3, [...file, ...numberField(9, 1)])];
  };
  const expected = imageOf(FILES_MAGIC, [regular(1), given(2), memfd(3, 2), regular(4), given(5)]);
  assert.deepEqual(readFileSync(path.join(folder, "files.img")), expected);
});

test("what the images do not map so is refused", (t) => {
  for (const start of [0x2000, 0x5000])
    assert.throws(() => mapGiven(images(t), [{ object: 1, process: 1, start }]), { code: "PROTOCOL" }, String(start));
});
