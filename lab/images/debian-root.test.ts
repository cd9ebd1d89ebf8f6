/**
 * What a root file system gives an image: the files a pattern names, with the libraries they need.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { before, test, type TestContext } from "node:test";
import { ensureRoot } from "../setup.ts";
import { DebianRoot } from "./debian-root.ts";

let root: string;
before(async () => (root = await ensureRoot()));

function folder(t: TestContext): string {
  const dir = mkdtempSync(path.join(tmpdir(), "dmigrate-root-"));
  t.after(() => rmSync(dir, { recursive: true }));
  return dir;
}

/** The libraries that the loader itself finds for a program. */
function librariesByLoader(program: string): string[] {
  const lines = execFileSync("chroot", [root, "ldd", program], { encoding: "utf8" }).split("\n");
  return lines.map((line) => /(?:=> )?(\/\S+) \(/.exec(line)?.[1]).filter((file) => file !== undefined);
}

for (const program of ["/usr/bin/redis-server", "/usr/bin/python3", "/usr/sbin/criu"]) {
  test(`${program} comes with the libraries that the loader would take, and no others`, () => {
    const expected = librariesByLoader(program).map((file) => realpathSync(path.join(root, file)));
    assert.ok(expected.length > 2);
    const taken = new DebianRoot(root);
    taken.take(program.slice(1));
    const files = [...taken.entries].filter(([, entry]) => entry.kind === "file").map(([file]) => path.join(root, file));
    assert.deepEqual(files.toSorted(), [...expected, realpathSync(path.join(root, program))].toSorted());
  });
}

test("a symbolic link is followed inside the root and taken with what it leads to", (t) => {
  const dir = folder(t);
  mkdirSync(path.join(dir, "real/etc"), { recursive: true });
  writeFileSync(path.join(dir, "real/etc/hostname"), "of the root");
  symlinkSync("/real/etc", path.join(dir, "etc"));
  symlinkSync("../../../../etc/hostname", path.join(dir, "real/up"));
  const taken = new DebianRoot(dir);
  taken.take("real/up");
  assert.deepEqual([...taken.entries.keys()].toSorted(), ["etc", "real", "real/etc", "real/etc/hostname", "real/up"]);
  const entry = taken.entries.get("real/etc/hostname");
  assert.equal(entry?.kind === "file" && Buffer.from(entry.content).toString(), "of the root");
});

test("links in a circle end", (t) => {
  const dir = folder(t);
  symlinkSync("b", path.join(dir, "a"));
  symlinkSync("a", path.join(dir, "b"));
  assert.throws(() => new DebianRoot(dir).take("a"), { code: "LAB", message: /Too many symbolic links/ });
});

test("what is missing is named", (t) => {
  const dir = folder(t);
  assert.throws(() => new DebianRoot(dir).take("usr/bin/postgres"), { code: "LAB", message: /usr\/bin\/postgres.*install/ });
  // A library that needs another one, without any loader.
  copyFileSync(path.join(root, "usr/lib", path.basename(path.dirname(libc())), "libm.so.6"), path.join(dir, "libm.so.6"));
  assert.throws(() => new DebianRoot(dir).take("libm.so.6"), { code: "LAB", message: /libm\.so\.6 needs libc\.so\.6/ });
});

function libc(): string {
  return librariesByLoader("/usr/bin/dash").find((file) => file.endsWith("libc.so.6")) ?? "";
}
