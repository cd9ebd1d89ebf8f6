/** Memory that processes share, of a real process. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { it } from "node:test";
import { memoryFilesOf, sharedObjectsOf } from "./shared-objects.ts";

/** At each line the next step: mmap(2), memfd_create(2), ftruncate(2), mlock(2). */
const PROGRAM = `
$| = 1;
my $name = "dev/zero";
my @steps = (
  sub { $anonymous = syscall(9, 0, 8192, 3, 0x21, -1, 0) },
  sub { $fd = syscall(319, $name, 0); syscall(77, $fd, 4096); syscall(9, 0, 4096, 3, 1, $fd, 0) },
  sub { syscall(3, $fd) },
  sub { syscall(9, 0, 4096, 3, 0x22, -1, 0); syscall(149, $anonymous, 4096) },
);
for (@steps) { $_->(); print "done\\n"; <STDIN> }
`;

it("is what a process maps and has no descriptor of, as long as it locks nothing", { skip: process.arch !== "x64" }, async () => {
  const child = spawn("perl", ["-e", PROGRAM]);
  const said = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const counts: number[] = [];
  const files: number[] = [];
  for (let step = 0; step < 4; step++) {
    await said.next();
    counts.push(sharedObjectsOf([child.pid ?? 0]).size);
    files.push(memoryFilesOf([child.pid ?? 0]).size);
    child.stdin.write("\n");
  }
  await once(child, "close");
  assert.deepEqual(counts, [1, 1, 2, 0]);
  assert.deepEqual(files, [1, 2, 2, 2]);
  assert.equal(sharedObjectsOf([child.pid ?? 0]).size, 0);
});
