/** What CRIU is shown of the files that a process has mapped. Needs root and Linux 6.7. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, lstatSync, openSync, readdirSync, readFileSync, statSync } from "node:fs";
import { createInterface } from "node:readline";
import { describe, it } from "node:test";
import { sharedObjectsOf } from "../kernel/shared-objects.ts";
import { dataExtents } from "../kernel/sparse.ts";
import { FileDecoys } from "./file-decoy.ts";

const SHARED_BYTES = 2 << 20;

/**
 * Shares memory with a child, and has a SysV segment, whose inode is 0 as it is the first. At each line one of them does something: the
 * parent unmaps half of what is shared, the child maps a device.
 */
const PROGRAM = `
$| = 1;
my $shared = syscall(9, 0, ${SHARED_BYTES}, 3, 0x21, -1, 0);
syscall(30, syscall(29, 0, 4096, 01600), 0, 0);
open my $random, '<', '/dev/urandom'; syscall(0, fileno($random), $shared, ${SHARED_BYTES});
pipe(my $from, my $to); pipe(my $done, my $say);
if (!fork) {
  sysread($from, my $x, 1);
  open my $zero, '<', '/dev/zero'; syscall(9, 0, 4096, 1, 2, fileno($zero), 0);
  syswrite($say, 1); sleep;
}
print "ready\\n";
<STDIN>; syscall(11, $shared + ${SHARED_BYTES} / 2, ${SHARED_BYTES} / 2); print "unmapped\\n";
<STDIN>; syswrite($to, 1); sysread($done, my $x, 1); print "mapped\\n";
<STDIN>; kill 'KILL', -$$;
`;

/** Asserts that a decoy can't be told from the process but by what the shared memory holds; returns the inodes of that. */
function assertLike(decoy: number, pid: number, shared: ReadonlySet<number>): Set<number> {
  const [shown, real] = [decoy, pid].map((each) => `/proc/${each}/map_files`) as [string, string];
  const inodes = new Set<number>();
  assert.deepEqual(readdirSync(shown), readdirSync(real));
  for (const name of readdirSync(real)) {
    assert.equal(lstatSync(`${shown}/${name}`).mode, lstatSync(`${real}/${name}`).mode, name);
    const [decoyed, actual] = [statSync(`${shown}/${name}`), statSync(`${real}/${name}`)];
    for (const key of ["dev", "size", "mode", "uid", "gid"] as const) assert.equal(decoyed[key], actual[key], `${name}: ${key}`);
    if (!shared.has(actual.ino)) {
      assert.equal(decoyed.ino, actual.ino, name);
      continue;
    }
    const file = openSync(`${shown}/${name}`, "r");
    assert.deepEqual([...dataExtents(file, decoyed.size)], []);
    closeSync(file);
    inodes.add(decoyed.ino);
  }
  return inodes;
}

void describe("a decoy of mapped files", { skip: process.arch !== "x64", timeout: 60_000 }, () => {
  void it("shows what is mapped, with one empty file in place of what is shared; not if one of the processes can't be shown", async () => {
    const parent = spawn("unshare", ["--ipc", "perl", "-e", PROGRAM], { detached: true });
    const said = createInterface({ input: parent.stdout })[Symbol.asyncIterator]();
    const goOn = async (): Promise<unknown> => (parent.stdin.write("\n"), await said.next());
    await said.next();
    const pid = parent.pid ?? 0;
    const pids = [pid, ...readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean).map(Number)];
    const [object] = sharedObjectsOf(pids).keys();
    const shared = new Set([Number(object)]);
    const shownOf = new Map<number, number>();
    {
      using decoys = new FileDecoys((file, decoy, of) => {
        assert.equal(file, "map_files");
        shownOf.set(of, decoy);
      });
      await decoys.prepare(sharedObjectsOf(pids));
      assert.deepEqual([...shownOf.keys()], pids);
      await goOn();
      assert.equal((await decoys.update(new Set(pids), sharedObjectsOf(pids))).size, 1);
      const inodes = pids.map((each) => assertLike(shownOf.get(each) ?? 0, each, shared));
      assert.deepEqual([inodes[0]?.size, inodes[0]], [1, inodes[1]]);
      // One that nobody hides any more is shown as it is.
      assert.equal((await decoys.update(new Set(pids), new Map())).size, 0);
      for (const each of pids) assertLike(shownOf.get(each) ?? 0, each, new Set());
    }
    await goOn();
    shownOf.clear();
    using others = new FileDecoys((_, decoy, of) => shownOf.set(of, decoy));
    assert.equal((await others.update(new Set(pids), sharedObjectsOf(pids))).size, 0);
    assert.deepEqual([...shownOf.keys()], [pid]);
    assertLike(shownOf.get(pid) ?? 0, pid, new Set());
    parent.stdin.write("\n");
    await once(parent, "close");
  });
});
