/** Files in memory, of a process that sees file systems which this one does not. Needs root. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { readFileSync, statSync } from "node:fs";
import { filesIn, tmpfsOf } from "./tmpfs.ts";

const SCRIPT = `
mount -t tmpfs one /mnt; cd /mnt; mkdir -p deep/er over "$(printf '\\377')"; ln -s /etc link; mkfifo fifo
echo 1 > file; echo 2 > deep/er/file; echo 3 > "$(printf '\\377')/file"; echo hidden > over/file
mount -t tmpfs two over; echo 4 > over/file
mount --bind deep /opt; touch -a -d 2001-01-01 file
echo ready; exec sleep 60`;

test("all that lies in them is found, each once, and nothing that a link or mount leads to", async (t) => {
  const child = spawn("unshare", ["--mount", "sh", "-ec", SCRIPT], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill());
  await once(child.stdout, "data");
  const mounts = tmpfsOf(child.pid ?? 0);
  assert.deepEqual(
    mounts.map(({ folder }) => folder.replace(/^.*root/, "")),
    ["/mnt", "/mnt/over"],
  );
  const contents: string[][] = [];
  for (const mount of mounts) {
    const found: string[] = [];
    for await (const fd of filesIn(mount)) found.push(readFileSync(fd, "utf8").trim());
    contents.push(found.toSorted());
  }
  assert.deepEqual(contents, [["1", "2", "3"], ["4"]]);
  assert.equal(statSync(`/proc/${child.pid}/root/mnt/file`).atime.getFullYear(), 2001); // it does not show that somebody has looked
  assert.deepEqual(tmpfsOf(process.pid), []);
});
