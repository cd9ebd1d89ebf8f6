/** Rounds of never-lazy memory of real processes: what the target has of it is what they have. Needs root. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { test, type TestContext } from "node:test";
import { temporaryDirectory } from "../../test/support/hosts.ts";
import { mappingsOf } from "../kernel/maps.ts";
import { readMemory } from "../kernel/process-memory.ts";
import { ContentRounds, NO_PROCESS } from "./content-rounds.ts";
import { PAGE_BYTES, type PageRun } from "./page-protocol.ts";
import { PageStore } from "./page-store.ts";
import type { RoundSink } from "./rounds.ts";

const PAGES = 512;

/** mmap(2), memfd_create(2), ftruncate(2), shmget(2), shmat(2), mlock(2): what it makes is filled, and changed at each line. */
const PROGRAM = `
use strict; $| = 1;
my ($folder, $pages) = @ARGV;
my $size = 4096 * $pages;
sub filled { my ($name, $turn) = @_; return join "", map { pack("A64", "$name $_ " . ($_ == 7 ? $turn : 0)) x 64 } 0 .. $pages - 1 }
sub put { my ($address, $text) = @_; open my $mem, "+<", "/proc/self/mem" or die; sysseek $mem, $address, 0; syswrite $mem, $text }
my $name = "kept"; my $memfd = syscall(319, $name, 0); syscall(77, $memfd, $size);
open my $file, "+<&=", $memfd;
my $shm = syscall(30, syscall(29, 0, $size, 01600), 0, 0);
open my $private, "+>", "$folder/private"; syswrite $private, "x" x $size;
my $own = syscall(9, 0, $size, 3, 2, fileno $private, 0);
my $locked = syscall(9, 0, $size, 3, 0x22, -1, 0); syscall(149, $locked, $size) == 0 or die "mlock: $!";
for (my $turn = 0; ; $turn++) {
  sysseek $file, 0, 0; syswrite $file, filled("memfd", $turn);
  put($shm, filled("segment", $turn)); put($own, filled("private", $turn)); put($locked, filled("locked", $turn));
  open my $shared, ">", "/mnt/file" or die; syswrite $shared, filled("tmpfs", $turn) . "rest"; close $shared;
  printf "%d %d %d %d\\n", $memfd, $shm, $own, $locked;
  <STDIN>;
}
`;

class Sink extends PageStore implements RoundSink {
  async sendPages(runs: Iterable<PageRun>, read: (run: PageRun, into: Uint8Array) => number): Promise<void> {
    for (const run of runs) {
      const bytes = Buffer.alloc(run.pageCount * PAGE_BYTES);
      assert.equal(read(run, bytes), run.pageCount);
      this.take(run, bytes);
    }
  }

  async send(): Promise<void> {
    assert.fail("a round of content has nothing but pages");
  }
}

/** In a mount namespace of its own, with a tmpfs. */
async function started(t: TestContext): Promise<{ child: ChildProcess; next: () => Promise<number[]> }> {
  const script = 'mount -t tmpfs none /mnt && exec perl -e "$0" "$@"';
  const child = spawn("unshare", ["--mount", "--ipc", "sh", "-c", script, PROGRAM, temporaryDirectory(t), String(PAGES)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  t.after(async () => {
    child.kill("SIGKILL");
    if (child.exitCode === null && child.signalCode === null) await once(child, "close");
  });
  const said = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<number[]> =>
    String((await said.next()).value)
      .split(" ")
      .map(Number);
  return { child, next };
}

/** All that the process has, by what it is. */
function contentOf(pid: number, [memfd = 0, ...addresses]: readonly number[]): Map<string, Buffer> {
  const [segment, own, locked] = addresses.map((address) => {
    const into = Buffer.alloc(PAGES * PAGE_BYTES);
    assert.equal(readMemory(pid, address, into), into.length);
    return into;
  });
  return new Map(
    Object.entries({
      memfd: readFileSync(`/proc/${pid}/fd/${memfd}`),
      segment,
      own,
      locked,
      file: readFileSync(`/proc/${pid}/root/mnt/file`),
    }).flatMap(([name, bytes]) => (bytes === undefined ? [] : [[name, bytes.subarray(0, PAGES * PAGE_BYTES)]])),
  );
}

/** Asserts that the store has it. */
function assertHas({ known }: ContentRounds, store: Sink, contents: ReadonlyMap<string, Buffer>): void {
  for (const [name, bytes] of contents) {
    let at = 0;
    for (const { number, pageCount } of known.runs(bytes)) {
      assert.ok(number !== undefined, `page ${at / PAGE_BYTES} of ${name} is missing`);
      const kept = Buffer.alloc(pageCount * PAGE_BYTES);
      store.read({ process: NO_PROCESS, page: number, pageCount }, kept);
      assert.ok(kept.equals(bytes.subarray(at, (at += kept.length))), `${name} differs before byte ${at}`);
    }
    assert.equal(at, PAGES * PAGE_BYTES);
  }
}

const turn = (): Promise<void> => Promise.resolve();

test("bring every kind of it, and then no more than what has changed", { skip: process.arch !== "x64" }, async (t) => {
  const { child, next } = await started(t);
  const pid = child.pid ?? 0;
  using store = new Sink(Infinity);
  const tasks = { pids: () => [pid], hold: async () => ({ [Symbol.asyncDispose]: async () => {} }) };
  const rounds = new ContentRounds({ tasks, initPid: pid, except: () => new Set() });
  const first = contentOf(pid, await next());
  await rounds.round(store, turn);
  assertHas(rounds, store, first);
  const before = store.pageCount;
  child.stdin?.write("\n");
  const second = contentOf(pid, await next());
  assert.ok(second.get("file")?.includes("tmpfs 7 1"));
  await rounds.round(store, turn);
  assertHas(rounds, store, second);
  assert.ok(store.pageCount - before < 100, `${store.pageCount - before} pages were sent again`);
});

test("leave out what crosses otherwise, and send nothing of little", { skip: process.arch !== "x64" }, async (t) => {
  const { child, next } = await started(t);
  const pid = child.pid ?? 0;
  using store = new Sink(Infinity);
  const all = contentOf(pid, await next());
  const segment = mappingsOf(pid).find(({ path }) => path.startsWith("/SYSV"));
  const tasks = { pids: () => [pid], hold: async () => ({ [Symbol.asyncDispose]: async () => {} }) };
  const rounds = new ContentRounds({ tasks, initPid: pid, except: () => new Set([segment?.inode ?? 0n]) });
  await rounds.round(store, turn);
  assert.ok(rounds.known.runs(all.get("segment") ?? Buffer.alloc(0)).every(({ number }) => number === undefined));
  assertHas(rounds, store, new Map([...all].filter(([name]) => name !== "segment")));

  const small = spawn("sleep", ["60"]);
  t.after(() => small.kill());
  await once(small, "spawn");
  const none = new ContentRounds({ tasks: { ...tasks, pids: () => [small.pid ?? 0] }, initPid: small.pid ?? 0, except: () => new Set() });
  await none.round(store, turn);
  assert.equal(none.known.pageCount, 0);
});
