/**
 * The files of a tmpfs, archived and unpacked as CRIU does it: with its arguments, the directory at standard input or named.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { temporaryDirectory } from "../../test/support/hosts.ts";
import { getXattrAt, setXattrAt } from "../kernel/xattr.ts";

const PATH = `${fileURLToPath(new URL("archive", import.meta.url))}:${process.env["PATH"] ?? ""}`;
/** criu/filesystems.c, `tmpfs_dump` and `tmpfs_restore`. */
const CREATE =
  "--create --gzip --no-unquote --no-wildcards --one-file-system --check-links --preserve-permissions --sparse --numeric-owner";
const EXTRACT = "--extract --gzip --no-unquote --no-wildcards --directory";

function tmpfs(t: TestContext): string {
  const folder = mkdtempSync(path.join(tmpdir(), "dmigrate-archive-"));
  execFileSync("mount", ["-t", "tmpfs", "tmpfs", folder]);
  t.after(() => {
    execFileSync("umount", ["--lazy", folder]);
    rmdirSync(folder);
  });
  return folder;
}

/** Runs it with files as standard input and output; returns its exit code. */
function tar(args: string, input: string, output: string): number | null {
  const [stdin, stdout] = [openSync(input, "r"), openSync(output, "w")];
  const { status } = spawnSync("tar", args.split(" "), { stdio: [stdin, stdout, "inherit"], env: { PATH } });
  for (const fd of [stdin, stdout]) closeSync(fd);
  return status;
}

test("files cross as they are, with attributes and to the nanosecond, and so does their root", (t) => {
  const [there, here] = [tmpfs(t), tmpfs(t)];
  const archive = path.join(temporaryDirectory(t), "archive");
  const file = path.join(there, "file");
  writeFileSync(file, "content");
  utimesSync(file, 1_700_000_000.123_456, 1_700_000_000.654_321);
  chmodSync(there, 0o1770);
  const root = openSync(there, "r");
  t.after(() => closeSync(root));
  setXattrAt(root, "file", "trusted.kept", Buffer.from("value"));

  assert.equal(tar(`${CREATE} --directory /proc/self/fd/0 .`, there, archive), 0);
  assert.equal(tar(`${EXTRACT} ${here}`, archive, "/dev/null"), 0);

  const copied = openSync(here, "r");
  t.after(() => closeSync(copied));
  assert.equal(readFileSync(path.join(here, "file"), "utf8"), "content");
  assert.equal(statSync(path.join(here, "file"), { bigint: true }).mtimeNs, statSync(file, { bigint: true }).mtimeNs);
  assert.equal(getXattrAt(copied, "file", "trusted.kept")?.toString(), "value");
  assert.equal(statSync(here).mode & 0o7777, 0o1770);
});

test("one that is empty and can't be changed needs no archive", (t) => {
  const [there, here] = [tmpfs(t), tmpfs(t)];
  const archive = path.join(temporaryDirectory(t), "archive");
  execFileSync("mount", ["-o", "remount,ro", there]);
  assert.equal(tar(`${CREATE} --directory /proc/self/fd/0 .`, there, archive), 0);
  assert.equal(statSync(archive).size, 0);
  assert.equal(tar(`${EXTRACT} ${here}`, archive, "/dev/null"), 0);
  assert.deepEqual(readdirSync(here), []);
});

test("an archive that is broken is told", (t) => {
  const here = tmpfs(t);
  const archive = path.join(temporaryDirectory(t), "archive");
  writeFileSync(archive, "no archive");
  assert.notEqual(tar(`${EXTRACT} ${here}`, archive, "/dev/null"), 0);
});
