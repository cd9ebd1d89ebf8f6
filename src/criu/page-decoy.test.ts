/** What CRIU is shown of a process in place of its own page map, and what is left for later. Needs root and Linux 6.7. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { parseMaps, type MapsEntry } from "../kernel/maps.ts";
import { Pagemap, type AddressRange } from "../kernel/pagemap.ts";
import { lazinessOf, PageDecoys } from "./page-decoy.ts";

const PAGE_BYTES = 4096;

function mappingsOf(pid: number): MapsEntry[] {
  return parseMaps(readFileSync(`/proc/${pid}/maps`, "utf8"));
}

function pageCount(ranges: readonly AddressRange[]): number {
  return ranges.reduce((sum, { start, end }) => sum + (end - start) / PAGE_BYTES, 0);
}

void describe("a page decoy", { skip: process.arch !== "x64", timeout: 60_000 }, () => {
  void it("shows the pages that can't be lazy, where they are, and no other", async () => {
    const child = spawn("perl", ["-e", '$x = "a" x (8 << 20); $| = 1; print "1"; <STDIN>; $y = "b" x (4 << 20); print "2"; <STDIN>']);
    const pid = child.pid ?? 0;
    await once(child.stdout, "data");
    const shown = new Map<number, number>();
    using decoys = new PageDecoys();
    await decoys.prepare([pid], (_, decoy, of) => shown.set(of, decoy));
    await decoys.update(new Map([[1, pid]]));
    decoys.list();
    const firstCount = decoys.pageCount;
    assert.ok(firstCount >= (8 << 20) / PAGE_BYTES);
    child.stdin.write("\n");
    await once(child.stdout, "data");
    await decoys.update(new Map([[1, pid]]));
    decoys.list();
    assert.ok(decoys.pageCount >= firstCount + (4 << 20) / PAGE_BYTES);

    using real = new Pagemap(pid);
    using decoy = new Pagemap(shown.get(pid) ?? 0);
    let eagerCount = 0;
    for (const mapping of mappingsOf(pid)) {
      const laziness = lazinessOf(mapping);
      if (laziness === "none") continue;
      const seen = decoy.present(mapping);
      assert.deepEqual(seen, laziness === "eager" ? real.present(mapping) : [], mapping.path);
      eagerCount += pageCount(seen);
    }
    assert.ok(eagerCount > 0, "its libraries have pages of their own");
    child.kill();
    await once(child, "close");
  });

  void it("is not made for a process that has ended, or has locked memory; CRIU sees the pages of those itself", async () => {
    const ended = spawn("true");
    await once(ended, "close");
    const locked = spawn("perl", ["-e", "$x = 'a' x (1 << 20); syscall(151, 1); $| = 1; print 1; <STDIN>"]); // mlockall(MCL_CURRENT)
    await once(locked.stdout, "data");
    using decoys = new PageDecoys();
    await decoys.prepare([ended.pid ?? 0, locked.pid ?? 0], () => assert.fail("a decoy was made"));
    await decoys.update(new Map([[1, locked.pid ?? 0]]));
    decoys.list();
    assert.equal(decoys.pageCount, 0);
    assert.equal(decoys.amended("/nowhere", "pagemap-1.img"), undefined);
    locked.kill();
    await once(locked, "close");
  });
});
