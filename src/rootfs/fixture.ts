/**
 * Trees for tests: real overlays on temporary directories, random changes to them, and a way to compare two that owes nothing to the
 * code under test.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { TestContext } from "node:test";
import * as fc from "fast-check";
import { makeNodeAt, setTimesAt } from "../kernel/files.ts";
import { punchHole } from "../kernel/sparse.ts";
import { getXattrAt, listXattrsAt, removeXattrAt, setXattrAt } from "../kernel/xattr.ts";
import type { Tree } from "./scan.ts";

/** A temporary directory that goes with the test. */
export function temporary(t: TestContext): string {
  const directory = fs.mkdtempSync(join(tmpdir(), "dmigrate-rootfs-"));
  t.after(() => fs.rmSync(directory, { recursive: true }));
  return directory;
}

/** A tree and where it is seen and written. */
export interface MountedTree extends Disposable {
  readonly tree: Tree;
  readonly path: string;
}

/** An overlay of an empty upper directory on `lower`, under `directory`. */
export function overlay(directory: string, lower: string): MountedTree {
  const [upper, work, merged] = ["upper", "work", "merged"].map((name) => join(directory, name)) as [string, string, string]; // three names
  for (const each of [upper, work, merged]) fs.mkdirSync(each, { recursive: true });
  execFileSync("mount", ["-t", "overlay", "-o", `lowerdir=${lower},upperdir=${upper},workdir=${work},volatile`, "overlay", merged]);
  return { tree: { kind: "upper", root: upper }, path: merged, [Symbol.dispose]: () => void execFileSync("umount", [merged]) };
}

/** An empty directory as a volume would be. */
export function plain(directory: string): MountedTree {
  fs.mkdirSync(directory, { recursive: true });
  return { tree: { kind: "plain", root: directory }, path: directory, [Symbol.dispose]: () => undefined };
}

/** Everything that a program inside could tell of a tree, by path; inodes by the first path that has them. */
export function describe(root: string): Map<string, object> {
  const found = new Map<string, object>();
  const inodes = new Map<bigint, string>();
  const visit = (path: string): void => {
    const real = bytes(join(root, path));
    const stat = fs.lstatSync(real, { bigint: true });
    const first = inodes.get(stat.ino) ?? path;
    if (!stat.isDirectory()) inodes.set(stat.ino, first);
    found.set(path, {
      mode: stat.mode.toString(8),
      owner: `${stat.uid}:${stat.gid}`,
      mtimeNs: stat.mtimeNs,
      device: stat.rdev,
      first,
      size: stat.isDirectory() ? undefined : stat.size,
      target: stat.isSymbolicLink() ? fs.readlinkSync(real, "latin1") : undefined,
      content: stat.isFile() ? createHash("sha1").update(fs.readFileSync(real)).digest("hex") : undefined,
      xattrs: at(real, (fd, name) => (listXattrsAt(fd, name) ?? []).toSorted().map((x) => [x, getXattrAt(fd, name, x)?.toString("hex")])),
    });
    if (stat.isDirectory()) for (const name of fs.readdirSync(real, "latin1").toSorted()) visit(join(path, name));
  };
  visit("");
  return found;
}

/** Bytes on the disk of every regular file, by path. */
export function allocated(root: string, path: string): number {
  return fs.statSync(bytes(join(root, path))).blocks * 512;
}

/** Makes every change so far count as settled, now and later in the test: as if the rounds were an hour apart. */
export function settled(t: TestContext): () => void {
  const directory = temporary(t);
  t.mock.method(Date, "now", () => Math.round(performance.timeOrigin + performance.now()) + 3_600_000);
  return () => {
    const changed = (name: string): bigint => fs.statSync(join(directory, name), { bigint: true }).ctimeNs;
    fs.writeFileSync(join(directory, "now"), "");
    fs.writeFileSync(join(directory, "later"), "");
    while (changed("later") <= changed("now")) fs.chmodSync(join(directory, "later"), 0o600); // until the kernel's next tick
  };
}

/** A path of a byte string as Node takes it. */
export function bytes(path: string): Buffer {
  return Buffer.from(path, "latin1");
}

/** Calls `use` with an open directory and the name in it that `path` means. */
export function at<T>(path: string | Buffer, use: (directory: number, name: string) => T): T {
  const text = path.toString("latin1");
  const slash = text.lastIndexOf("/");
  const fd = fs.openSync(bytes(text.slice(0, slash + 1)), fs.constants.O_DIRECTORY);
  try {
    return use(fd, text.slice(slash + 1));
  } finally {
    fs.closeSync(fd);
  }
}

const NAMES = ["a", "b", "\xc3\xbc", "\xff\n "]; // few, so that they meet; not all are UTF-8
const somePath = fc.array(fc.constantFrom(...NAMES), { minLength: 1, maxLength: 3 }).map((names) => names.join("/"));
const someSize = fc.constantFrom(0, 1, 100, 5000, 40_000, 262_144, 300_000, 700_000);
const someByte = fc.integer({ min: 0, max: 3 }); // 0 makes zeros

/** A change to a tree; as text, what it does. */
export interface Change {
  readonly apply: (root: string) => void;
  readonly toString: () => string;
}

function change<A extends unknown[]>(
  name: string,
  inputs: { [K in keyof A]: fc.Arbitrary<A[K]> },
  apply: (root: string, ...values: A) => void,
): fc.Arbitrary<Change> {
  return fc.tuple<A>(...inputs).map((values) => ({
    apply: (root) => tolerant(() => apply(root, ...values)),
    toString: () => `${name}(${values.map((value) => (typeof value === "string" ? JSON.stringify(value) : String(value))).join(", ")})`,
  }));
}

const real = (root: string, relative: string): Buffer => bytes(join(root, relative));

/** Opens a regular file, which `flags` may create, for writing. Nothing else: a fifo would wait for its reader. */
function patch(root: string, relative: string, use: (fd: number) => void, flags = 0): void {
  if ((flags & fs.constants.O_CREAT) !== 0) fs.mkdirSync(bytes(dirname(join(root, relative))), { recursive: true });
  const fd = fs.openSync(real(root, relative), fs.constants.O_RDWR | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK | flags);
  try {
    if (fs.fstatSync(fd).isFile()) use(fd);
  } finally {
    fs.closeSync(fd);
  }
}

const CAPABILITY = Buffer.from("0100000200200000000000000000000000000000", "hex"); // cap_net_raw=ep
// Owner rwx, user 12345 r-x, group r-x, mask rwx, others r-x.
const ACL = Buffer.from("0200000001000700ffffffff020005003930000004000500ffffffff10000700ffffffff20000500ffffffff", "hex");
const XATTRS = ["user.a", "trusted.b", "security.capability", "system.posix_acl_access", "system.posix_acl_default"];
const valueOf = (name: string): Buffer =>
  name === "security.capability" ? CAPABILITY : name.startsWith("system") ? ACL : Buffer.from(name);

/** Changes of every kind. Those that make no sense where they are applied do nothing. */
export const anyChange: fc.Arbitrary<Change> = fc.oneof(
  change("write", [somePath, someSize, someByte], (root, to, length, value) =>
    patch(root, to, (fd) => fs.writeSync(fd, Buffer.alloc(length, value)), fs.constants.O_CREAT | fs.constants.O_TRUNC),
  ),
  change("append", [somePath, someSize, someByte], (root, to, length, value) =>
    patch(root, to, (fd) => fs.writeSync(fd, Buffer.alloc(length, value)), fs.constants.O_CREAT | fs.constants.O_APPEND),
  ),
  change("overwrite", [somePath, someSize, someByte], (root, to, offset, value) =>
    patch(root, to, (fd) => fs.writeSync(fd, Buffer.alloc(10, value), 0, 10, offset)),
  ),
  change("sparse", [somePath, someByte], (root, to, value) =>
    patch(root, to, (fd) => fs.writeSync(fd, Buffer.alloc(5000, value), 0, 5000, 3_000_000), fs.constants.O_CREAT | fs.constants.O_TRUNC),
  ),
  change("punch", [somePath, someSize], (root, to, offset) => patch(root, to, (fd) => void punchHole(fd, offset, 70_000))),
  change("truncate", [somePath, someSize], (root, to, length) => patch(root, to, (fd) => fs.ftruncateSync(fd, length))),
  change("rewriteQuietly", [somePath, someByte], (root, to, value) => {
    const { mtimeNs, size: length } = fs.lstatSync(real(root, to), { bigint: true });
    patch(root, to, (fd) => fs.writeSync(fd, Buffer.alloc(Number(length), value), 0, Number(length), 0));
    at(real(root, to), (fd, name) => setTimesAt(fd, name, { mtimeNs }));
  }),
  change("mkdir", [somePath], (root, to) => void fs.mkdirSync(real(root, to), { recursive: true })),
  change("remove", [somePath], (root, to) => removeBytes(join(root, to))),
  change("rename", [somePath, somePath], (root, from, to) => fs.renameSync(real(root, from), real(root, to))),
  change("link", [somePath, somePath], (root, from, to) => fs.linkSync(real(root, from), real(root, to))),
  change("symlink", [somePath, somePath], (root, target, to) => fs.symlinkSync(bytes(target), real(root, to))),
  change("node", [somePath, fc.constantFrom(0o010600, 0o140755, 0o020666)], (root, to, mode) =>
    at(real(root, to), (fd, name) => makeNodeAt(fd, name, mode, { major: 1, minor: 3 })),
  ),
  change("chmod", [somePath, fc.constantFrom(0o600, 0o4755, 0o2750, 0o1777)], (root, to, mode) => {
    if (!fs.lstatSync(real(root, to)).isSymbolicLink()) fs.chmodSync(real(root, to), mode);
  }),
  change("chown", [somePath, fc.integer({ min: 0, max: 3 })], (root, to, uid) => fs.lchownSync(real(root, to), uid, 70_000)),
  change("touch", [somePath, fc.bigInt({ min: -5_000_000_001n, max: 2n ** 62n })], (root, to, mtimeNs) =>
    at(real(root, to), (fd, name) => setTimesAt(fd, name, { mtimeNs })),
  ),
  change("setXattr", [somePath, fc.constantFrom(...XATTRS)], (root, to, attribute) =>
    at(real(root, to), (fd, name) => setXattrAt(fd, name, attribute, valueOf(attribute))),
  ),
  change("removeXattr", [somePath, fc.constantFrom(...XATTRS)], (root, to, attribute) =>
    at(real(root, to), (fd, name) => removeXattrAt(fd, name, attribute)),
  ),
);

function removeBytes(path: string): void {
  const stat = fs.lstatSync(bytes(path));
  if (!stat.isDirectory()) {
    fs.unlinkSync(bytes(path));
    return;
  }
  for (const name of fs.readdirSync(bytes(path), "latin1")) removeBytes(`${path}/${name}`);
  fs.rmdirSync(bytes(path));
}

/** What a random change may meet; anything else fails the test. */
const EXPECTED = new Set([
  "ENOENT",
  "EEXIST",
  "ENOTDIR",
  "EISDIR",
  "EINVAL",
  "ENOTEMPTY",
  "EPERM",
  "EXDEV",
  "ELOOP",
  "ENOTSUP",
  "EACCES",
  "ENXIO",
]);

function tolerant(use: () => void): void {
  try {
    use();
  } catch (error) {
    const code = (error as { code?: string; cause?: { code?: string } }).cause?.code ?? (error as { code?: string }).code;
    if (code === undefined || !EXPECTED.has(code)) throw error;
  }
}
