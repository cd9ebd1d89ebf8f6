/** Where the files' content lies in archives, as tar makes them for CRIU. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, fstatSync, ftruncateSync, mkdirSync, openSync, readFileSync, statSync, writeFileSync, writeSync } from "node:fs";
import { test, type TestContext } from "node:test";
import * as fc from "fast-check";
import { temporaryDirectory } from "../../test/support/hosts.ts";
import { PAGE_BYTES } from "../wire/trunk-frames.ts";
import { contentIn } from "./image-content.ts";

const NAME = "tmpfs-dev-57.tar.gz.img";

/** What is found in an archive of such a folder. */
function found(t: TestContext, folder: string): Buffer[] {
  const archive = `${temporaryDirectory(t)}/${NAME}`;
  execFileSync("tar", ["--create", "--sparse", "--format=posix", "--xattrs", "--acls", "--file", archive, "--directory", folder, "."]);
  return contentOf(archive, NAME);
}

function contentOf(file: string, name: string): Buffer[] {
  const fd = openSync(file, "r");
  try {
    const bytes = readFileSync(file);
    return [...contentIn(name, fd, fstatSync(fd).size)].map(({ start, end }) => bytes.subarray(start, end));
  } finally {
    closeSync(fd);
  }
}

test("the content of each file is found, whatever its name, and of folders and links there is none", (t) => {
  const folder = temporaryDirectory(t);
  const files = new Map([
    ["empty", 0],
    ["small", 5],
    ["page", PAGE_BYTES],
    ["large", 300_001],
    [`${"a".repeat(120)}é`, 9_000],
  ]);
  mkdirSync(`${folder}/below`);
  for (const [name, size] of files) writeFileSync(`${folder}/below/${name}`, Buffer.alloc(size, name));
  execFileSync("ln", ["-s", "large", `${folder}/link`]);
  const contents = found(t, folder).filter(({ length }) => length > 0);
  const expected = [...files].filter(([, size]) => size > 0).map(([name, size]) => Buffer.alloc(size, name));
  const texts = (buffers: readonly Buffer[]): string[] => buffers.map((bytes) => bytes.toString("latin1")).toSorted();
  assert.deepEqual(texts(contents), texts(expected));
});

test("of a file with holes that what is between them, one behind the other", (t) => {
  const folder = temporaryDirectory(t);
  const fd = openSync(`${folder}/holes`, "w");
  const page = Buffer.alloc(PAGE_BYTES, "x");
  const places = Array.from({ length: 300 }, (_, at) => 3 * at); // more than a block of the map has room for
  for (const at of places) writeSync(fd, page, 0, PAGE_BYTES, at * PAGE_BYTES);
  ftruncateSync(fd, 2000 * PAGE_BYTES);
  closeSync(fd);
  assert.ok(statSync(`${folder}/holes`).blocks < 2000 * 8);
  const [content, ...others] = found(t, folder);
  assert.deepEqual(others, []);
  assert.ok(content?.equals(Buffer.alloc(places.length * PAGE_BYTES, "x")));
});

test("an image of memory is content, any other is none", (t) => {
  const file = `${temporaryDirectory(t)}/image`;
  writeFileSync(file, Buffer.alloc(5000));
  assert.deepEqual(contentOf(file, "pages-12.img"), [Buffer.alloc(5000)]);
  assert.deepEqual(contentOf(file, "pagemap-12.img"), []);
});

test("what is no archive has ranges in order and within it, or none", (t) => {
  const folder = temporaryDirectory(t);
  writeFileSync(`${folder}/file`, Buffer.alloc(10_000, "y"));
  const archive = `${temporaryDirectory(t)}/${NAME}`;
  execFileSync("tar", ["--create", "--format=posix", "--file", archive, "--directory", folder, "."]);
  const right = readFileSync(archive);
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(4096), fc.uint8Array({ maxLength: 12 }))), fc.nat(right.length), (changes, length) => {
      const bytes = Buffer.from(right.subarray(0, length));
      for (const [at, change] of changes) Buffer.from(change).copy(bytes, at);
      writeFileSync(archive, bytes);
      const fd = openSync(archive, "r");
      try {
        let last = 0;
        for (const { start, end } of contentIn(NAME, fd, length)) {
          assert.ok(last <= start && start <= end && end <= length, `${last} ${start} ${end} ${length}`);
          last = end;
        }
      } finally {
        closeSync(fd);
      }
    }),
  );
});
