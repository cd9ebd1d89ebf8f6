/**
 * A container's files move as they are, while they are written to: everything a file system can hold, in the writable layer and in
 * volumes, seen by a program inside the container and by the engine before and after.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { workloadsImage } from "../../lab/images/catalogue.ts";
import type { Host } from "../../lab/host.ts";
import { LAN, type Lab } from "../../lab/lab.ts";
import { assertClean, labOfTwo, migrate, provideImage } from "../support/lab.ts";

let lab: Lab;
let a: Host;
let b: Host;

before(async () => {
  lab = await labOfTwo("tfiles");
  [a, b] = [lab.host("a"), lab.host("b")];
  const image = await provideImage(a, workloadsImage);
  const mounts = ["--volume", "named:/named", "--volume", "/anonymous"];
  const options = ["--network", LAN, "--cap-add", "MKNOD", "--cap-add", "SYS_ADMIN", "--entrypoint", "python3"];
  await a.run("docker", "run", "--detach", "--name", "files", ...options, ...mounts, image, "-c", WRITER);
  await a.run("docker", "exec", "files", "python3", "-c", MAKE_EVERYTHING);
});
after(() => lab.down());

/** Everything a file system can hold, in the container's own layer and in both volumes. */
const MAKE_EVERYTHING = `
import os, shutil, socket, stat, struct
def everything(root):
    os.makedirs(root, exist_ok=True)
    os.chdir(root)
    def put(name, content=b"content"):
        with open(name, "wb") as file: file.write(content)
    put("plain"); os.link("plain", "hard"); os.link("plain", "harder")
    os.symlink("plain", "soft"); os.symlink("/nowhere/" + "x" * 200, "dangling"); os.symlink(b"odd\\xff", "oddlink")
    put(b"odd \\n\\t\\xff\\xfe name"); put("-rf"); put("ä" * 100); put("empty", b"")
    put("setuid"); os.chown("setuid", 999, 998); os.chmod("setuid", 0o6751)
    os.mkdir("sticky"); os.chmod("sticky", 0o1777); os.mkdir("setgid"); os.chown("setgid", 0, 999); os.chmod("setgid", 0o2750)
    put("odd-owner"); os.chown("odd-owner", 54321, 12345); os.symlink("x", "owned-link"); os.lchown("owned-link", 7, 8)
    put("unreadable"); os.chmod("unreadable", 0)
    put("attributes"); os.setxattr("attributes", "user.text", b"value"); os.setxattr("attributes", "user.empty", b"")
    os.setxattr("attributes", "user.binary", bytes(range(256)))
    os.setxattr("attributes", "trusted.secret", b"trusted"); os.mkdir("attributed"); os.setxattr("attributed", "user.of", b"directory")
    put("capable"); os.setxattr("capable", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0))
    put("acl"); os.setxattr("acl", "system.posix_acl_access", struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in
        [(1, 6, 0xffffffff), (2, 4, 999), (4, 4, 0xffffffff), (0x10, 6, 0xffffffff), (0x20, 4, 0xffffffff)]))
    with open("sparse", "wb") as file: file.seek(1 << 20); file.write(b"middle"); file.truncate(1 << 25)
    put("large", os.urandom(3 << 20))
    os.mkfifo("fifo", 0o640); socket.socket(socket.AF_UNIX).bind("socket")
    os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3)); os.mknod("disk", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    os.makedirs("deep/" + "/".join("d%d" % n for n in range(50)))
    for n in range(300): put("many%d" % n, b"%d" % n)
    put("old"); os.utime("old", ns=(1, 1234567890123456789)); os.utime("soft", ns=(5, 987654321987654321), follow_symlinks=False)
    put("future"); os.utime("future", ns=(0, 4000000000 * 10**9 + 1))
    os.utime("sticky", ns=(3, 1000000007))
for root in ["/top", "/named/in", "/anonymous/in"]: everything(root)
# What the image has: removed, replaced, changed, renamed, and changed in nothing but its mode.
os.remove("/etc/group"); shutil.rmtree("/var/tmp")
shutil.rmtree("/opt/workloads"); os.mkdir("/opt/workloads"); open("/opt/workloads/new", "w").close()
with open("/etc/passwd", "a") as file: file.write("new:x:1:1::/:\\n")
os.rename("/usr/local/bin/check", "/usr/local/bin/checked"); os.chmod("/root", 0o750)
shutil.rmtree("/usr/local/bin"); open("/usr/local/bin", "w").close()
`;

/** All that can be seen of the container's files, a line each; the times of what is written to all the while are left out. */
const MANIFEST = `
import hashlib, os, stat
OF_THE_ENGINE = {"/etc/hostname", "/etc/hosts", "/etc/mtab", "/etc/resolv.conf"}
ROOTS = ["/etc", "/opt", "/root", "/top", "/usr/local", "/var", "/named", "/anonymous"]
links = {}
def show(path):
    if path in OF_THE_ENGINE: return
    at = os.lstat(path)
    row = [repr(os.fsencode(path)), oct(at.st_mode), at.st_uid, at.st_gid, at.st_mtime_ns]
    if not stat.S_ISDIR(at.st_mode): row.append(at.st_nlink); row.append(links.setdefault((at.st_dev, at.st_ino), path))
    if stat.S_ISREG(at.st_mode):
        with open(path, "rb") as file: row += [at.st_size, hashlib.sha256(file.read()).hexdigest()]
        if at.st_blocks * 512 < at.st_size: row.append("sparse")
    if stat.S_ISLNK(at.st_mode): row.append(os.fsencode(os.readlink(path)))
    if stat.S_ISCHR(at.st_mode) or stat.S_ISBLK(at.st_mode): row.append((os.major(at.st_rdev), os.minor(at.st_rdev)))
    row.append(sorted((name, os.getxattr(path, name, follow_symlinks=False)) for name in os.listxattr(path, follow_symlinks=False)))
    print(*map(ascii, row))
for root in ROOTS:
    for folder, folders, files in os.walk(root):
        if folder.endswith("/busy"): folders.clear(); continue
        folders.sort()
        show(folder)
        linked = [each for each in folders if os.path.islink(os.path.join(folder, each))]
        for name in sorted(files + linked): show(os.path.join(folder, name))
`;

/** The container's process: writes all the while. Each round finds all that earlier ones left, or the process ends. */
const WRITER = `
import os, time
ROOTS = ["/busy", "/named/busy", "/anonymous/busy"]
FILES = 50
def left_by(number):
    return b"%d" % number * 2000 if number % 3 else None
def content(path):
    return open(path, "rb").read() if os.path.exists(path) else None
for root in ROOTS: os.makedirs(root)
logs = [open(root + "/log", "ab", 0) for root in ROOTS]
number = 0
while True:
    for root, log in zip(ROOTS, logs):
        log.write(b"%010d\\n" % number)
        path = "%s/%d" % (root, number % FILES)
        if os.path.exists(path): os.remove(path)
        if left_by(number): open(path, "wb").write(left_by(number))
        os.makedirs("%s/folder%d/below" % (root, number)); os.rename("%s/folder%d" % (root, number), "%s/renamed%d" % (root, number))
        # rmtree would compare inode numbers, which change if the move comes between.
        if number >= 5: os.removedirs("%s/renamed%d/below" % (root, number - 5))
        for earlier in range(max(0, number - FILES + 1), number + 1):
            assert content("%s/%d" % (root, earlier % FILES)) == left_by(earlier), (root, earlier)
        assert content(root + "/log") == b"".join(b"%010d\\n" % each for each in range(number + 1)), root
        left = sum(left_by(each) is not None for each in range(max(0, number - FILES + 1), number + 1))
        assert len(os.listdir(root)) == 1 + left + min(number + 1, 5), root
    number += 1
    with open("/dev/shm/rounds.new", "w") as file: file.write(str(number))
    os.rename("/dev/shm/rounds.new", "/dev/shm/rounds")
    time.sleep(0.05)
`;

async function manifest(host: Host): Promise<string[]> {
  return (await host.run("docker", "exec", "files", "python3", "-c", MANIFEST)).trim().split("\n");
}

/** What the engine says has changed from the image, but for what is written to all the while: it fails over folders that come and go. */
async function changes(host: Host): Promise<string[]> {
  await host.run("docker", "pause", "files");
  const lines = (await host.run("docker", "diff", "files")).trim().split("\n");
  await host.run("docker", "unpause", "files");
  return lines.filter((line) => !line.includes("/busy/")).toSorted();
}

function without(lines: readonly string[], others: readonly string[]): string[] {
  const known = new Set(others);
  return lines.filter((line) => !known.has(line));
}

/** The writer is through with more rounds than before: everything it wrote is as it left it. */
async function assertWriting(host: Host): Promise<void> {
  const rounds = async (): Promise<number> => Number(await host.run("docker", "exec", "files", "cat", "/dev/shm/rounds"));
  const roundsBefore = await rounds();
  await host.run("docker", "exec", "files", "sh", "-c", `until [ "$(cat /dev/shm/rounds)" -gt ${roundsBefore + 1} ]; do sleep 0.05; done`);
}

for (const direction of ["there", "back again, over the volumes that stayed there", "and there once more"]) {
  test(`files move as they are, ${direction}`, async () => {
    const [source, target] = (await a.exec("docker", "inspect", "files")).code === 0 ? [a, b] : [b, a];
    const there = [...(await manifest(source)), ...(await changes(source))];
    const result = await migrate(source, "files", target.name);
    assert.deepEqual([result.code, result.outcome], [0, "completed"], result.message);
    const now = [...(await manifest(target)), ...(await changes(target))];
    assert.deepEqual({ lost: without(there, now), added: without(now, there) }, { lost: [], added: [] });
    await assertWriting(target);
    await assertClean(source, "files");
    assert.equal((await source.run("docker", "volume", "ls", "--quiet")).trim(), "named");
  });
}

test("a volume of the same name that is somebody else's is not overwritten", async () => {
  const source = (await a.exec("docker", "inspect", "files")).code === 0 ? a : b;
  const target = source === a ? b : a;
  await target.run("docker", "volume", "rm", "named");
  await target.run("docker", "volume", "create", "named");
  const mount = (await target.run("docker", "volume", "inspect", "--format", "{{.Mountpoint}}", "named")).trim();
  await target.run("sh", "-c", 'echo precious > "$1/file"', "sh", mount);
  const result = await migrate(source, "files", target.name);
  assert.deepEqual([result.outcome, result.errorCode], ["rolled-back", "PREFLIGHT_BLOCKED"]);
  assert.match(result.message, /Volume named exists/);
  assert.equal(await target.run("cat", `${mount}/file`), "precious\n");
  await assertWriting(source);
});
