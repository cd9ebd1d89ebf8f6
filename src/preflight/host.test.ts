/**
 * The facts of this machine, with programs in the place of CRIU and runc.
 */
import assert from "node:assert/strict";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, beforeEach, describe, test } from "node:test";
import { DmigrateError } from "../core/errors.ts";
import { hostName } from "../core/ids.ts";
import { hostFacts, type HostFacts } from "../core/preflight-facts.ts";
import { gatherHost } from "./host.ts";

const folder = mkdtempSync(path.join(tmpdir(), "dmigrate-host-"));
const programs = path.join(folder, "bin");
const temporary = path.join(folder, "tmp");
after(() => rmSync(folder, { recursive: true }));

const CRIU =
  'case "$1 $2 $3" in "--version  ") echo "Version: 9.9" ;; "check  ") ;; "check --feature uffd") ;; dump*) ;; *) exit 1 ;; esac';
const RUNC = 'case $1 in --version) echo "runc version 8.8" ;; *) echo "--lazy-pages  use userfaultfd" ;; esac';

/** Puts a program in the place of one of the same name. */
function install(name: string, script: string): void {
  writeFileSync(path.join(programs, name), `#!/bin/sh\n${script}\n`);
  chmodSync(path.join(programs, name), 0o755);
}

function gather(options: Partial<Parameters<typeof gatherHost>[0]> = {}): Promise<HostFacts> {
  return gatherHost({
    host: hostName("here"),
    dockerSocket: path.join(folder, "no.sock"),
    imageFolder: folder,
    pageHandler: "own",
    tryNetwork: () => Promise.resolve(),
    hasMovedAway: () => false,
    ...options,
  });
}

describe("the facts of this host", () => {
  beforeEach(() => {
    rmSync(programs, { recursive: true, force: true });
    mkdirSync(programs);
    mkdirSync(temporary, { recursive: true });
    Object.assign(process.env, { PATH: `${programs}:/usr/bin:/bin`, TMPDIR: temporary });
    install("criu", CRIU);
    install("runc", RUNC);
  });

  test("are what its kernel tells", async () => {
    const facts = await gather();
    assert.equal(facts.kernel, readFileSync("/proc/sys/kernel/osrelease", "utf8").trim());
    assert.equal(facts.pipeMaxBytes, Number(readFileSync("/proc/sys/fs/pipe-max-size", "utf8")));
    assert.ok(facts.memoryAvailableBytes > 100_000_000 && facts.imageSpace.freeBytes > 0 && facts.cpuCount > 0);
    assert.ok(facts.cpuFlags.length > 5);
    assert.ok(existsSync(facts.runtimePath));
    assert.deepEqual(hostFacts.parse(JSON.parse(JSON.stringify(facts))), facts);
  });

  test("are what programs can do", async () => {
    const facts = await gather();
    assert.deepEqual(facts.criu, { works: true, version: "9.9" });
    assert.equal(facts.criuDump.works, true);
    assert.deepEqual(facts.criuFeatures, ["uffd"]);
    assert.deepEqual(facts.runc, { works: true, version: "8.8" });
  });

  test("tell missing programs", async () => {
    process.env["PATH"] = programs;
    rmSync(path.join(programs, "runc"));
    const { runc, criuDump } = await gather();
    assert.deepEqual(runc, { works: false, reason: "runc is not installed" });
    assert.deepEqual(criuDump, { works: false, reason: "spawn sleep ENOENT" });
  });

  test("tell a runtime without lazy pages", async () => {
    install("runc", "echo runc version 0.1");
    assert.deepEqual((await gather()).runc, { works: false, reason: "it does not know --lazy-pages" });
  });

  test("tell what CRIU can't do though its own check is content, and leave nothing of the attempt", async () => {
    install(
      "criu",
      `${CRIU}\n[ "$1" = dump ] || exit 0\necho "$3" > ${folder}/subject\necho "Error (criu/x.c:1): Can't get 1:16 opt"\nexit 1`,
    );
    const facts = await gather();
    assert.deepEqual([facts.criu.works, facts.criuDump], [true, { works: false, reason: "Can't get 1:16 opt" }]);
    const subject = Number(readFileSync(path.join(folder, "subject"), "utf8"));
    assert.throws(() => process.kill(subject, 0), /ESRCH/);
    assert.deepEqual(readdirSync(temporary), []);
  });

  test("tell an engine that does not answer, a network that can't be silenced, and a source that is not reached", async () => {
    const facts = await gather({
      tryNetwork: () => Promise.reject(new DmigrateError("KERNEL", "netlink failed: EPERM")),
      tryReturn: () => Promise.reject(new DmigrateError("PEER_UNREACHABLE", "Host a does not answer")),
    });
    assert.deepEqual(facts.returnPath, { works: false, reason: "Host a does not answer" });
    assert.deepEqual(facts.quarantine, { works: false, reason: "netlink failed: EPERM" });
    assert.ok(!facts.docker.reachable && facts.docker.reason.includes("no.sock"));
  });
});
