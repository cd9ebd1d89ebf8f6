/** What beginning a writeback is for: stores through a mapping that the file's times would not tell. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import koffi from "koffi";
import { declare, must } from "./libc.ts";
import { beginWriteback, syncFileSystem } from "./writeback.ts";

const PAGE = 4096;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const mmap = declare<(address: null, bytes: number, protection: number, flags: number, fd: number, offset: number) => unknown>(
  "void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)",
);
const munmap = declare<(address: unknown, bytes: number) => number>("int munmap(void *addr, size_t length)");

test("a store into a mapped page shows in the file's times only if it was written back before", (t) => {
  const path = fs.mkdtempSync(join("/var/tmp", "dmigrate-writeback-")); // tmpfs, which /tmp may be, writes nothing back
  const fd = fs.openSync(join(path, "file"), "w+");
  fs.ftruncateSync(fd, PAGE);
  const mapping = mmap(null, PAGE, PROT_READ_WRITE, MAP_SHARED, fd, 0);
  t.after(() => {
    must("munmap", munmap(mapping, PAGE));
    fs.closeSync(fd);
    fs.rmSync(path, { recursive: true });
  });
  const memory = new Uint8Array(koffi.view(mapping, PAGE));
  const changed = (): bigint => fs.fstatSync(fd, { bigint: true }).ctimeNs;
  const waitForTick = (): void => {
    const clock = join(path, "clock");
    fs.writeFileSync(clock, "");
    while (fs.statSync(clock, { bigint: true }).ctimeNs <= changed()) fs.chmodSync(clock, 0o600);
  };

  memory[0] = 1;
  waitForTick();
  const dirty = changed();
  memory[0] = 2;
  assert.equal(changed(), dirty, "a page that is dirty already takes stores silently");

  beginWriteback(fd, 0, PAGE);
  memory[0] = 3;
  assert.notEqual(changed(), dirty);
});

test("a whole file system is written back", async (t) => {
  const path = fs.mkdtempSync(join("/var/tmp", "dmigrate-writeback-"));
  const fd = fs.openSync(path, fs.constants.O_DIRECTORY);
  t.after(() => {
    fs.closeSync(fd);
    fs.rmdirSync(path);
  });
  await syncFileSystem(fd);
  await assert.rejects(syncFileSystem(-1), { code: "KERNEL", message: /EBADF/ });
});
