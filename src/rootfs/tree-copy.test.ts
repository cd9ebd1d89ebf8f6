/** Whole trees in rounds: what arrives is what was there, whatever happened to it meanwhile. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import * as fc from "fast-check";
import { removeXattrAt, setXattrAt } from "../kernel/xattr.ts";
import { CHUNK_BYTES } from "./codec.ts";
import { treeDigest } from "./digest.ts";
import { allocated, anyChange, at, describe, overlay, plain, settled, temporary, type MountedTree } from "./fixture.ts";
import type { IdMap } from "./id-map.ts";
import { clearTree } from "./remove.ts";
import { TreeSource } from "./tree-source.ts";
import { TreeTarget } from "./tree-target.ts";

type Deed = (root: string) => void;

async function collect(stream: AsyncIterable<Uint8Array>, meanwhile: () => void = () => undefined): Promise<Uint8Array[]> {
  const all: Uint8Array[] = [];
  for await (const bytes of stream) {
    all.push(Uint8Array.from(bytes));
    meanwhile();
  }
  return all;
}

async function* cut(chunks: readonly Uint8Array[], size: number): AsyncGenerator<Uint8Array, void> {
  const all = Buffer.concat(chunks);
  for (let start = 0; start < all.length; start += size) yield all.subarray(start, start + size);
}

async function assertSame(source: MountedTree, target: MountedTree): Promise<void> {
  assert.deepEqual(describe(target.path), describe(source.path));
  assert.equal(await treeDigest({ kind: "plain", root: target.path }), await treeDigest({ kind: "plain", root: source.path }));
}

interface Around {
  /** Called before each round. */
  readonly settle?: () => void;
  /** Done while all rounds but the last are read. */
  readonly during?: readonly Deed[];
}

/** One round after each of `deeds`, the last one frozen; then both must be the same. Returns how many bytes each round sent. */
async function copyInRounds(source: MountedTree, target: MountedTree, deeds: readonly Deed[], around: Around = {}): Promise<number[]> {
  const from = new TreeSource(source.tree);
  const to = new TreeTarget(target.tree);
  const during = [...(around.during ?? [])];
  const sizes: number[] = [];
  for (const [i, deed] of deeds.entries()) {
    deed(source.path);
    around.settle?.();
    const frozen = i === deeds.length - 1;
    const sent = await collect(from.round({ frozen }), () => {
      if (!frozen) for (const each of during.splice(0, 10)) each(source.path);
    });
    sizes.push(sent.reduce((sum, { length }) => sum + length, 0));
    await to.apply(cut(sent, 65_537), target.path);
  }
  await assertSame(source, target);
  return sizes;
}

const all =
  (...deeds: readonly Deed[]): Deed =>
  (root) =>
    deeds.forEach((deed) => deed(root));
const changes = fc.array(anyChange, { maxLength: 50 }).map((list) => list.map((change) => change.apply));
const rounds = fc.array(
  changes.map((list) => all(...list)),
  { minLength: 1, maxLength: 4 },
);

/** Two overlays on the same random layer, new for each call of `use`. */
function overlays(t: TestContext): (use: (source: MountedTree, target: MountedTree) => Promise<unknown>) => Promise<void> {
  const base = temporary(t);
  const [lower, forSource, forTarget] = [join(base, "lower"), join(base, "source"), join(base, "target")];
  fs.mkdirSync(lower);
  for (const each of fc.sample(anyChange, { numRuns: 150, seed: 7 })) each.apply(lower);
  return async (use) => {
    try {
      using source = overlay(forSource, lower);
      using target = overlay(forTarget, lower);
      await use(source, target);
    } finally {
      clearTree(forSource);
      clearTree(forTarget);
    }
  };
}

test("times of access come along, and reading a file makes no difference", async (t) => {
  const [source, target] = [plain(join(temporary(t), "source")), plain(join(temporary(t), "target"))];
  fs.mkdirSync(join(source.path, "d"));
  fs.writeFileSync(join(source.path, "d/f"), "content");
  execFileSync("mkfifo", [join(source.path, "d/p")]);
  const names = ["", "d", "d/f", "d/p"];
  for (const [index, name] of names.entries()) fs.lutimesSync(join(source.path, name), 1_000_000_000 + index, 2_000_000_000);
  const accesses = (root: string): number[] => names.map((name) => fs.lstatSync(join(root, name)).atimeMs / 1000);
  const before = accesses(source.path);
  const [from, to] = [new TreeSource(source.tree), new TreeTarget(target.tree)];
  settled(t)();
  await to.apply(await collect(from.round({ frozen: false })).then((sent) => cut(sent, 1000)), target.path);
  assert.deepEqual(accesses(target.path), before);
  assert.deepEqual(accesses(source.path), before);
  fs.readFileSync(join(source.path, "d/f"));
  const frozen = await collect(from.round({ frozen: true }));
  assert.ok(frozen.reduce((sum, { length }) => sum + length, 0) < 200, "nothing but the digest");
  await to.apply(cut(frozen, 1000), target.path);
});

test("a writable layer arrives as it is, whatever is done to it between the rounds", async (t) => {
  const settle = settled(t);
  const withOverlays = overlays(t);
  const property = fc.asyncProperty(
    rounds,
    async (deeds) => await withOverlays(async (source, target) => await copyInRounds(source, target, deeds, { settle })),
  );
  await fc.assert(property, { numRuns: 20 });
});

test("a writable layer arrives as it is, whatever is done to it during the rounds", async (t) => {
  const withOverlays = overlays(t);
  const property = fc.asyncProperty(
    rounds,
    changes,
    async (deeds, during) => await withOverlays(async (source, target) => await copyInRounds(source, target, deeds, { during })),
  );
  await fc.assert(property, { numRuns: 20 });
});

test("a volume arrives as it is, whatever was in the target's", async (t) => {
  const base = temporary(t);
  const property = fc.asyncProperty(rounds, changes, changes, async (deeds, during, garbage) => {
    const [source, target] = [plain(join(base, "source")), plain(join(base, "target"))];
    all(...garbage)(target.path);
    await copyInRounds(source, target, deeds, { during });
    clearTree(source.path);
    clearTree(target.path);
  });
  await fc.assert(property, { numRuns: 40 });
});

const write =
  (path: string, content: string | Uint8Array): Deed =>
  (root) => {
    fs.mkdirSync(join(root, path, ".."), { recursive: true });
    fs.writeFileSync(join(root, path), content);
  };
const remove =
  (path: string): Deed =>
  (root) =>
    fs.rmSync(join(root, path), { recursive: true });
const rename =
  (from: string, to: string): Deed =>
  (root) =>
    fs.renameSync(join(root, from), join(root, to));
const link =
  (from: string, to: string): Deed =>
  (root) => {
    fs.mkdirSync(join(root, to, ".."), { recursive: true });
    fs.linkSync(join(root, from), join(root, to));
  };
/** What random changes seldom meet: each is done to an overlay on a layer with a few files, and to a volume with the same. */
const SCENARIOS: Readonly<Record<string, readonly Deed[]>> = {
  "a directory of a lower layer is replaced": [all(remove("dir"), write("dir/new", "new"))],
  "a directory of a lower layer is replaced by a file, and by a directory again": [
    all(remove("dir"), write("dir", "file")),
    all(remove("dir"), write("dir/a", "again")),
  ],
  "a directory is renamed": [write("new/x/y", "1"), rename("new", "newer")],
  "a directory is renamed away and back, with a file that has another name elsewhere": [
    all(write("new/x", "1"), link("new/x", "z/x")),
    all(rename("new", "t"), rename("t", "new")),
  ],
  "a renamed directory lies in one that is renamed away and back": [
    all(write("d/f", "1"), rename("d", "d2"), write("r/x", "1"), rename("d2", "r/e")),
    all(rename("r", "t"), rename("t", "r")),
  ],
  "the first name of a file moves behind its second": [all(write("a1/x", "1"), link("a1/x", "m/x")), rename("a1", "z1")],
  "the first name of a file vanishes": [all(write("a1/x", "1"), link("a1/x", "m/x")), remove("a1/x")],
  "a name of a file gets a file of its own": [
    all(write("a1", "1"), link("a1", "b1"), link("a1", "c1")),
    all(remove("a1"), write("a1", "other"), (root) => fs.appendFileSync(join(root, "b1"), "more")),
  ],
  "a file gets a further name": [write("n1", "1"), link("n1", "m1")],
  "attributes come and go": [
    (root) => at(join(root, "dir"), (fd, name) => setXattrAt(fd, name, "user.a", Buffer.from("1"))),
    (root) => at(join(root, "dir"), (fd, name) => removeXattrAt(fd, name, "user.a")),
  ],
  "a fifo changes its mode, which must not show in its directory's time": [
    (root) => execFileSync("mkfifo", [join(root, "dir/fifo")]),
    (root) => fs.chmodSync(join(root, "dir/fifo"), 0o600),
  ],
  "a file is replaced by a link that leads out of the tree": [
    write("dir/a", "1"),
    (root) => {
      fs.unlinkSync(join(root, "dir/a"));
      fs.symlinkSync("/etc/../etc/hostname", join(root, "dir/a"));
    },
  ],
  "a file becomes shorter, and longer again with zeros": [
    write("dir/a", Buffer.alloc(3 * CHUNK_BYTES, 1)),
    (root) => fs.truncateSync(join(root, "dir/a"), CHUNK_BYTES + 10),
    (root) => fs.truncateSync(join(root, "dir/a"), 3 * CHUNK_BYTES),
  ],
};

for (const [name, deeds] of Object.entries(SCENARIOS)) {
  test(name, async (t) => {
    const settle = settled(t);
    const allRounds = [() => undefined, ...deeds];
    const base = temporary(t);
    const layer = all(write("dir/a", "lower"), write("dir/sub/b", "lower"), write("p/q/d/low", "lower"), write("top", "lower"));
    layer(join(base, "lower"));
    {
      using source = overlay(join(base, "source"), join(base, "lower"));
      using target = overlay(join(base, "target"), join(base, "lower"));
      await copyInRounds(source, target, allRounds, { settle });
    }
    const volume = plain(join(base, "volume"));
    layer(volume.path);
    await copyInRounds(volume, plain(join(base, "copy")), allRounds, { settle });
  });
}

function volumes(t: TestContext): { source: MountedTree; target: MountedTree } {
  const base = temporary(t);
  return { source: plain(join(base, "source")), target: plain(join(base, "target")) };
}

test("a round costs what changed: no content twice, one chunk of a large file", async (t) => {
  const { source, target } = volumes(t);
  write("large", Buffer.alloc(10 * CHUNK_BYTES, 7))(source.path);
  for (let i = 0; i < 100; i++) write(`small/${i}`, Buffer.alloc(10_000, i + 1))(source.path);
  const deeds: readonly Deed[] = [
    () => undefined,
    () => undefined,
    (root) => fs.chmodSync(join(root, "large"), 0o600),
    (root) => {
      const fd = fs.openSync(join(root, "large"), "r+");
      fs.writeSync(fd, "changed", 5 * CHUNK_BYTES);
      fs.closeSync(fd);
    },
  ];
  const sizes = await copyInRounds(source, target, deeds, { settle: settled(t) });
  const [first = 0, second = 0, third = 0, fourth = 0] = sizes;
  assert.ok(first > 10 * CHUNK_BYTES + 1_000_000);
  assert.ok(second < 1000, `${second} bytes though nothing changed`);
  assert.ok(third < 2000, `${third} bytes for a mode`);
  assert.ok(fourth > CHUNK_BYTES && fourth < CHUNK_BYTES + 2000, `${fourth} bytes for one chunk`);
});

test("holes stay holes, also those made later", async (t) => {
  const { source, target } = volumes(t);
  const giga = 1024 ** 3;
  const sparse: Deed = (root) => {
    const fd = fs.openSync(join(root, "sparse"), "w");
    for (const offset of [giga, 5 * giga + 4096, 100 * giga]) fs.writeSync(fd, Buffer.alloc(4096, 1), 0, 4096, offset);
    fs.ftruncateSync(fd, 1024 * giga);
    fs.closeSync(fd);
  };
  const shrink: Deed = (root) => {
    fs.truncateSync(join(root, "sparse"), 2 * giga);
    fs.truncateSync(join(root, "sparse"), 1024 * giga);
  };
  sparse(source.path);
  const from = new TreeSource(source.tree);
  const to = new TreeTarget(target.tree);
  await to.apply(from.round({ frozen: false }), target.path);
  assert.equal(allocated(target.path, "sparse"), 3 * 4096);
  shrink(source.path);
  await to.apply(from.round({ frozen: true }), target.path);
  assert.equal(allocated(target.path, "sparse"), 4096);
  assert.equal(fs.statSync(join(target.path, "sparse")).size, 1024 * giga);
});

test("a round applied twice gives the same", async (t) => {
  const { source, target } = volumes(t);
  const from = new TreeSource(source.tree);
  const to = new TreeTarget(target.tree);
  const deeds = [
    all(write("a/file", Buffer.alloc(400_000, 1)), link("a/file", "b/file"), write("c/d", "1")),
    all(remove("c"), rename("a", "aa"), write("aa/file", Buffer.alloc(600_000, 2))),
  ];
  for (const [i, deed] of deeds.entries()) {
    deed(source.path);
    const sent = await collect(from.round({ frozen: i === 1 }));
    await to.apply(cut(sent, 10_000), target.path);
    await to.apply(cut(sent, 10_000), target.path);
  }
  await assertSame(source, target);
});

test("files that vanish or change while a round reads are right after the next", async (t) => {
  const { source, target } = volumes(t);
  write("a", Buffer.alloc(4 * CHUNK_BYTES, 1))(source.path);
  all(write("gone", "x"), link("gone", "gone2"), write("turned", "x"), write("grown", "x"), write("z/y", "x"))(source.path);
  const meanwhile = all(
    remove("gone"),
    remove("turned"),
    (root) => fs.symlinkSync("/etc/passwd", join(root, "turned")),
    (root) => fs.truncateSync(join(root, "a"), CHUNK_BYTES),
    write("grown", Buffer.alloc(100_000, 2)),
    rename("z", "zz"),
    (root) => fs.symlinkSync("zz", join(root, "z")),
  );
  let left = 1;
  const from = new TreeSource(source.tree);
  const to = new TreeTarget(target.tree);
  const first = await collect(from.round({ frozen: false }), () => {
    if (left-- === 1) meanwhile(source.path);
  });
  await to.apply(cut(first, 10_000), target.path);
  assert.ok(!fs.existsSync(join(target.path, "gone")));
  await to.apply(from.round({ frozen: true }), target.path);
  await assertSame(source, target);
});

test("a file that changes in a frozen round is an error that names it", async (t) => {
  const { source } = volumes(t);
  all(write("a", Buffer.alloc(4 * CHUNK_BYTES, 1)), write("b", "x"))(source.path);
  const round = new TreeSource(source.tree).round({ frozen: true });
  await assert.rejects(
    collect(round, () => write("b", "y")(source.path)),
    { code: "ROOTFS", message: /"\/b" changed although the container is frozen/ },
  );
});

test("after a round that was broken off there is no other", async (t) => {
  const { source } = volumes(t);
  const from = new TreeSource(source.tree);
  for await (const _ of from.round({ frozen: false })) break;
  await assert.rejects(collect(from.round({ frozen: false })), { code: "INTERNAL" });
});

test("whoever else writes to the target is noticed, by the path", async (t) => {
  const meddling: Readonly<Record<string, Deed>> = {
    "/dir/b": write("dir/b", "BBBB"),
    "/dir/c": remove("dir/c"),
    "/dir/extra": write("dir/extra", ""),
  };
  for (const [path, meddle] of Object.entries(meddling)) {
    const { source, target } = volumes(t);
    all(write("dir/a", "aaaa"), write("dir/b", "bbbb"), write("dir/c", "cccc"), write("last", ""))(source.path);
    const from = new TreeSource(source.tree);
    const to = new TreeTarget(target.tree);
    await to.apply(from.round({ frozen: false }), target.path);
    const { mtime } = fs.statSync(join(target.path, "dir"));
    const { mtime: mtimeOfB } = fs.statSync(join(target.path, "dir/b"));
    meddle(target.path);
    fs.utimesSync(join(target.path, "dir/b"), mtimeOfB, mtimeOfB);
    fs.utimesSync(join(target.path, "dir"), mtime, mtime);
    await assert.rejects(to.apply(from.round({ frozen: true }), target.path), (error: Error) =>
      error.message.includes(JSON.stringify(path)),
    );
  }
});

test("owners, access lists and capabilities cross in the container's terms", async (t) => {
  const { source, target } = volumes(t);
  const remapped = (host: number): IdMap => {
    const ranges = [{ container: 0, host, count: 65_536 }];
    return { uids: ranges, gids: ranges };
  };
  write("file", "1")(source.path);
  fs.chownSync(source.path, 100_000, 100_000);
  fs.chownSync(join(source.path, "file"), 100_999, 100_033);
  // Owner rwx, user 100999 r-x, group r-x, mask r-x, others nothing.
  const acl = Buffer.from("0200000001000700ffffffff02000500878a010004000500ffffffff10000500ffffffff20000000ffffffff", "hex");
  at(join(source.path, "file"), (fd, name) => setXattrAt(fd, name, "system.posix_acl_access", acl));
  // cap_net_raw=ep for the namespace whose root is 100000.
  const capability = Buffer.from("0100000300200000000000000000000000000000a0860100", "hex");
  at(join(source.path, "file"), (fd, name) => setXattrAt(fd, name, "security.capability", capability));

  const from = new TreeSource(source.tree, remapped(100_000));
  await new TreeTarget(target.tree).apply(from.round({ frozen: true }), target.path);
  const stat = fs.statSync(join(target.path, "file"));
  assert.deepEqual([stat.uid, stat.gid, fs.statSync(target.path).uid], [999, 33, 0]);

  const again = plain(join(source.path, "../again"));
  await new TreeTarget(again.tree, remapped(100_000)).apply(new TreeSource(target.tree).round({ frozen: true }), again.path);
  await assertSame(source, again);
});

test("a full disk is an error that says what to do", async (t) => {
  const base = temporary(t);
  const source = plain(join(base, "source"));
  write("large", Buffer.alloc(3_000_000, 1))(source.path);
  const small = join(base, "small");
  fs.mkdirSync(small);
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=1m", "small", small]);
  try {
    const to = new TreeTarget({ kind: "plain", root: small });
    await assert.rejects(to.apply(new TreeSource(source.tree).round({ frozen: true }), small), {
      code: "NO_SPACE",
      message: /"\/large".*free space/,
    });
  } finally {
    execFileSync("umount", [small]);
  }
});

test("everything applied is on the disk after a flush", async (t) => {
  const { source, target } = volumes(t);
  write("file", "1")(source.path);
  const to = new TreeTarget(target.tree);
  await to.apply(new TreeSource(source.tree).round({ frozen: true }), target.path);
  await to.flush();
});
