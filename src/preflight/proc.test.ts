/**
 * The text files of /proc: this process's own, and lines that are hard to read.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import {
  forkSharedBytes,
  hugePagesFreeBytes,
  isWithin,
  meminfoBytes,
  parseCpuFlags,
  parseMulticast,
  parseSmapsRollup,
  parseStatus,
} from "./proc.ts";

function read(name: string): string {
  return readFileSync(`/proc/self/${name}`, "utf8");
}

describe("/proc of this process", () => {
  test("status", () => {
    const status = parseStatus(read("status"));
    assert.equal(status.name, readFileSync("/proc/self/comm", "utf8").trim());
    assert.equal(status.parentPid, process.ppid);
    assert.equal(status.foreignId, process.geteuid?.() === 0 ? "" : `user ${process.geteuid?.()}`);
    assert.equal(status.tracerPid, 0);
    assert.match(status.state, /^[RS]$/);
    assert.ok(status.threadCount > 1);
    assert.ok(status.capabilities > 0n);
  });

  test("smaps_rollup", () => {
    const { residentBytes, anonymousBytes, hugePageBytes } = parseSmapsRollup(read("smaps_rollup"));
    assert.ok(residentBytes >= anonymousBytes && anonymousBytes > 1_000_000);
    assert.equal(hugePageBytes, 0);
  });

  test("meminfo and cpuinfo", () => {
    const meminfo = readFileSync("/proc/meminfo", "utf8");
    assert.ok(meminfoBytes(meminfo, "MemTotal") > meminfoBytes(meminfo, "MemAvailable"));
    assert.ok(parseCpuFlags(readFileSync("/proc/cpuinfo", "utf8")).length > 5);
  });
});

test("a process is known by its innermost pid, whatever its name", () => {
  const status = parseStatus(
    "Name:\tState: Z) 1\nState:\tT (stopped)\nPPid:\t7\nTracerPid:\t12\nUid:\t1\t2\t3\t4\nNSpid:\t4711\t33\t1\nThreads:\t3\n",
  );
  assert.deepEqual(status, {
    name: "State: Z) 1",
    state: "T",
    parentPid: 7,
    tracerPid: 12,
    foreignId: "user 1",
    innerPid: 1,
    threadCount: 3,
    capabilities: 0n,
    inheritsBeyondBounds: false,
    processors: "",
  });
});

test("a process has foreign ids if any that counts for its limits is not root's", () => {
  const foreignId = (uids: string, gids: string): string => parseStatus(`Uid:\t${uids}\nGid:\t${gids}\n`).foreignId;
  assert.equal(foreignId("0\t0\t0\t0", "0\t0\t0\t0"), "");
  assert.equal(foreignId("0\t0\t7\t0", "0\t0\t0\t0"), "user 7");
  assert.equal(foreignId("0\t0\t0\t0", "1000\t1000\t1000\t1000"), "group 1000");
  assert.equal(foreignId("0\t0\t0\t5", "0\t0\t0\t5"), "", "those for files don't");
});

test("capabilities that a process could inherit but may not have are seen", () => {
  const inherits = (inheritable: string, bounding: string): boolean =>
    parseStatus(`CapInh:\t${inheritable}\nCapBnd:\t${bounding}\n`).inheritsBeyondBounds;
  assert.ok(inherits("0000000000002000", "00000000a80405fb"));
  assert.ok(!inherits("0000000000002000", "00000000a80425fb"));
});

test("what several processes share is counted in parts, and what is swapped out counts", () => {
  const memory = parseSmapsRollup(
    "55 [rollup]\nRss: 90 kB\nPss: 40 kB\nPss_Shmem: 10 kB\nAnonymous: 30 kB\nSwapPss: 5 kB\nLocked: 2 kB\nPrivate_Hugetlb: 2048 kB\n",
  );
  assert.deepEqual(memory, {
    residentBytes: 46_080,
    anonymousBytes: 30_720,
    sharedBytes: 10_240,
    lockedBytes: 2_048,
    hugePageBytes: 2_097_152,
  });
});

test("memory that forked processes share is told from other memory that is shared", () => {
  const mapping = (head: string, pss: number): string => `7f0000000000-7f0000100000 ${head}\nSize: 1024 kB\nPss: ${pss} kB\nVmFlags: rd\n`;
  const texts = [
    mapping("rw-s 00000000 00:01 12                         /dev/zero (deleted)", 100),
    mapping("r--s 00000000 00:01 13                         /memfd:dev/zero (deleted)", 20),
    mapping("rw-s 00000000 00:01 14                         /SYSV00000000 (deleted)", 3),
    mapping("rw-p 00000000 00:00 0 ", 4),
  ];
  assert.equal(forkSharedBytes(texts.join("")), 120 * 1024);
});

test("a cgroup holds what lies below it, not what is called alike", () => {
  assert.ok(isWithin("/docker/1", "/docker/1"));
  assert.ok(isWithin("/docker/1/nested", "/docker/1"));
  assert.ok(isWithin("/docker", "/"));
  assert.ok(!isWithin("/docker/12", "/docker/1"));
  assert.ok(!isWithin(undefined, "/"));
});

test("multicast addresses are those that somebody joined", () => {
  const igmp = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n1\tlo        :     1      V3\n";
  const group = (hex: string): string => `\t\t\t\t${hex}     1 0:00000000\t\t0\n`;
  const igmp6 = ["ff020000000000000000000000000001", "ff0200000000000000000001ff4d00d2", "ff020000000000000000000000000114"];
  const lines6 = igmp6.map((hex) => `7    eth0            ${hex}     1 00000004 0\n`).join("");
  assert.deepEqual(parseMulticast(igmp + group("010000E0") + group("030201EF"), lines6), ["239.1.2.3", "ff02::114"]);
  assert.deepEqual(parseMulticast(igmp + group("010000E0"), ""), []);
  assert.deepEqual(
    parseMulticast(read("net/igmp"), read("net/igmp6")).filter((address) => !/^(22[4-9]|23\d|ff)/.test(address)),
    [],
  );
});

test("free huge pages are counted in bytes", () => {
  assert.equal(hugePagesFreeBytes("HugePages_Total: 9\nHugePages_Free: 3\nHugepagesize: 2048 kB\n"), 3 * 2048 * 1024);
});
