/** Files by descriptor and name, against the kernel: compared with what Node's own calls say. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, afterEach, test } from "node:test";
import {
  changeModeAt,
  changeOwnerAt,
  linkAt,
  makeDirectoryAt,
  makeNodeAt,
  makeSymlinkAt,
  namesIn,
  openBeneath,
  readLinkAt,
  removeDirectoryAt,
  setTimesAt,
  statAt,
  unlinkAt,
} from "./files.ts";

let path: string;
let root: number;

beforeEach(() => {
  path = fs.mkdtempSync(join(tmpdir(), "dmigrate-files-"));
  root = fs.openSync(path, fs.constants.O_DIRECTORY);
});
afterEach(() => {
  fs.closeSync(root);
  fs.rmSync(path, { recursive: true });
});

const BYTES = "\xff\n\x01"; // no UTF-8

test("names are bytes, from making to listing", () => {
  assert.equal(makeDirectoryAt(root, BYTES, 0o700), true);
  assert.equal(makeDirectoryAt(root, BYTES, 0o700), false);
  assert.deepEqual(namesIn(root), [BYTES]);
  assert.deepEqual(fs.readdirSync(path, "latin1"), [BYTES]);
  removeDirectoryAt(root, BYTES);
  assert.deepEqual(fs.readdirSync(path), []);
});

test("a directory with more names than one call returns is listed whole", () => {
  const names = Array.from({ length: 2000 }, (_, i) => `a-name-of-some-length-${i}`);
  for (const name of names) fs.writeFileSync(join(path, name), "");
  assert.deepEqual(namesIn(root).toSorted(), names.toSorted());
});

test("a directory that is removed while it is open has no names", () => {
  fs.rmdirSync(path);
  assert.deepEqual(namesIn(root), []);
  fs.mkdirSync(path);
});

test("the state of a file is what Node says of it", () => {
  fs.writeFileSync(join(path, "file"), "12345");
  fs.linkSync(join(path, "file"), join(path, "other"));
  fs.chmodSync(join(path, "file"), 0o4751);
  fs.chownSync(join(path, "file"), 70_001, 70_002);
  const stat = statAt(root, "file");
  const node = fs.lstatSync(join(path, "file"), { bigint: true });
  assert.deepEqual(
    [stat?.mode, stat?.uid, stat?.gid, stat?.linkCount, stat?.size, stat?.allocated].map((n) => BigInt(n ?? -1)),
    [node.mode, node.uid, node.gid, node.nlink, node.size, node.blocks * 512n],
  );
  assert.deepEqual([stat?.atimeNs, stat?.mtimeNs, stat?.ctimeNs, stat?.inodeNumber], [node.atimeNs, node.mtimeNs, node.ctimeNs, node.ino]);
  assert.deepEqual(statAt(root, "other"), stat);
  assert.equal(statAt(root, "missing"), undefined);
});

test("an empty name is the descriptor's own file", () => {
  assert.equal(statAt(root, "")?.inodeNumber, fs.statSync(path, { bigint: true }).ino);
});

test("times have every nanosecond, also before 1970 and of a link itself", () => {
  makeSymlinkAt(root, "link", "nowhere");
  for (const mtimeNs of [1n, 1_700_000_000_123_456_789n, -1n, -1_500_000_001n]) {
    setTimesAt(root, "link", { mtimeNs, atimeNs: mtimeNs + 1n });
    setTimesAt(root, "link", { mtimeNs });
    assert.deepEqual([statAt(root, "link")?.mtimeNs, statAt(root, "link")?.atimeNs], [mtimeNs, mtimeNs + 1n]);
  }
});

test("devices, fifos and sockets are made with their numbers", () => {
  makeNodeAt(root, "device", 0o020640, { major: 511, minor: 0x12345 });
  makeNodeAt(root, "fifo", 0o010600, { major: 0, minor: 0 });
  makeNodeAt(root, "socket", 0o140600, { major: 0, minor: 0 });
  assert.deepEqual(statAt(root, "device")?.device, { major: 511, minor: 0x12345 });
  assert.ok(fs.lstatSync(join(path, "fifo")).isFIFO());
  assert.ok(fs.lstatSync(join(path, "socket")).isSocket());
});

test("a link is linked, owned and read itself, not what it leads to", () => {
  fs.writeFileSync(join(path, "file"), "");
  makeSymlinkAt(root, "link", "file");
  linkAt(root, "link", root, "second");
  changeOwnerAt(root, "link", 5, 6);
  assert.deepEqual([fs.lstatSync(join(path, "second")).uid, fs.statSync(join(path, "file")).uid], [5, 0]);
  assert.equal(readLinkAt(root, "second"), "file");
  assert.equal(readLinkAt(root, "missing"), undefined);
  unlinkAt(root, "link");
  unlinkAt(root, "link");
  assert.deepEqual(namesIn(root).toSorted(), ["file", "second"]);
});

test("permissions have all twelve bits", () => {
  fs.writeFileSync(join(path, "file"), "");
  changeModeAt(root, "file", 0o7421);
  assert.equal(fs.statSync(join(path, "file")).mode & 0o7777, 0o7421);
});

test("no path leads out of the directory it is opened beneath", () => {
  fs.mkdirSync(join(path, "in/side"), { recursive: true });
  fs.writeFileSync(join(path, "in/side/file"), "");
  fs.symlinkSync("side", join(path, "in/link"));
  fs.symlinkSync("/etc/hostname", join(path, "in/absolute"));
  const directory = fs.openSync(join(path, "in"), fs.constants.O_DIRECTORY);
  for (const name of ["..", "../in/side/file", "side/../../in", "/etc/hostname", "link/file", "absolute", "missing", "side/file/x"]) {
    assert.equal(openBeneath(directory, name, fs.constants.O_RDONLY), undefined, name);
  }
  for (const name of ["side/file", "side", ""]) {
    const fd = openBeneath(directory, name, fs.constants.O_RDONLY);
    assert.ok(fd !== undefined, name);
    fs.closeSync(fd);
  }
  fs.closeSync(directory);
});

test("a file that is there is not created", () => {
  fs.writeFileSync(join(path, "file"), "");
  assert.equal(openBeneath(root, "file", fs.constants.O_CREAT | fs.constants.O_EXCL | fs.constants.O_WRONLY, 0o600), undefined);
});
