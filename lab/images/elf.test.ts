/**
 * What an ELF file says of the libraries it needs, and what is no ELF file.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { before, test } from "node:test";
import { ensureRoot } from "../setup.ts";
import { readElf } from "./elf.ts";

let root: string;
before(async () => (root = await ensureRoot()));

const read = (file: string): Buffer => readFileSync(path.join(root, file));

test("a dynamic program names its loader and its libraries", () => {
  const facts = readElf(read("usr/bin/redis-server"));
  assert.ok(facts !== undefined);
  assert.match(facts.interpreter ?? "", /^\/lib.*\/ld-linux-.*\.so\.\d$/);
  assert.ok(facts.needed.includes("libc.so.6"));
  assert.ok(facts.needed.includes("libssl.so.3"));
  assert.deepEqual(facts.searchPath, []);
});

test("a static program needs nothing", () => {
  const { architecture, ...needs } = readElf(read("usr/bin/busybox")) ?? {};
  assert.match(architecture ?? "", /^(amd64|arm64)$/);
  assert.deepEqual(needs, { needed: [], searchPath: [] });
});

test("a file of another kind is no program", () => {
  for (const content of ["", "#!/bin/sh\n", "\x7fELF", "x".repeat(100)]) assert.equal(readElf(Buffer.from(content)), undefined);
});

test("a program for another machine is refused", () => {
  const bitsOrderAndMachine = [
    [4, 1],
    [5, 2],
    [18, 3],
  ] as const;
  for (const [at, value] of bitsOrderAndMachine) {
    const file = read("usr/bin/busybox");
    file[at] = value;
    assert.throws(() => readElf(file), { code: "LAB", message: /another machine/ });
  }
});

test("a damaged program is refused", () => {
  const file = read("usr/bin/redis-server");
  assert.throws(() => readElf(file.subarray(0, 100)), { code: "LAB", message: /damaged/ });
  assert.throws(() => readElf(file.subarray(0, 2000)), { code: "LAB", message: /damaged/ });
});
