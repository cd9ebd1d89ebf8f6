/**
 * Workloads that check themselves pass when left alone, and fail when harmed.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { closeSync, copyFileSync, openSync, readFileSync, readSync, readdirSync, renameSync, truncateSync, writeSync } from "node:fs";
import net from "node:net";
import path from "node:path";
import { before, describe, test } from "node:test";
import type { ChildProcess } from "node:child_process";
import { workloadNames, workloadsImage } from "../images/catalogue.ts";
import { buildImage, type Image } from "../images/image.ts";
import { Sandbox, processesUnder } from "../images/sandbox.ts";
import { ensureRoot } from "../setup.ts";
import { runEchoClient } from "./echo-client.ts";

let image: Image;
before(async () => {
  const root = await ensureRoot();
  image = await buildImage(workloadsImage(root), root);
});

const address = `127.78.${(process.pid >> 8) & 255}.${process.pid & 255}`;

/** A workload under way. */
interface Running {
  readonly sandbox: Sandbox;
  readonly child: ChildProcess;
  /** Its first process and that one's first child, if it has one. */
  readonly parent: number;
  readonly offspring: number;
}

/** Writes into a file in place. */
function overwrite(file: string, content: string | Buffer, position: number): void {
  const descriptor = openSync(file, "r+");
  writeSync(descriptor, Buffer.from(content), 0, content.length, position);
  closeSync(descriptor);
}

/** Where in its address space a process has these bytes, in a mapping of its own of at least so many. */
function placeOf(bytes: Buffer, pid: number, mappingBytes: number): number {
  const memory = openSync(`/proc/${pid}/mem`, "r");
  for (const [, start = "", end = ""] of readFileSync(`/proc/${pid}/maps`, "utf8").matchAll(/^(\w+)-(\w+) rw-p 00000000 00:00 0 *$/gm)) {
    const from = Number.parseInt(start, 16);
    const content = Buffer.alloc(Number.parseInt(end, 16) - from);
    if (content.length < mappingBytes) continue;
    readSync(memory, content, 0, content.length, from);
    const place = content.indexOf(bytes);
    if (place >= 0) return from + place;
  }
  throw new Error(`Process ${pid} has nothing like that`);
}

/** A megabyte that a process never touched. */
const UNTOUCHED = Buffer.alloc(1 << 20);

/** Where a process has the last page of the memory of that size that it shares. */
function lastSharedPage(pid: number, bytes: number): number {
  const maps = readFileSync(`/proc/${pid}/maps`, "utf8").matchAll(/^(\w+)-(\w+) rw-s .*\/dev\/zero \(deleted\)$/gm);
  const ranges = [...maps].map(([, start = "", end = ""]) => ({ start: Number.parseInt(start, 16), end: Number.parseInt(end, 16) }));
  const range = ranges.find(({ start, end }) => end - start === bytes);
  assert.ok(range);
  return range.end - 4096;
}

/** Each workload, how it is harmed, and what it must say then. */
const WORKLOADS: Record<string, { args?: string[]; network?: "shared"; harm: (running: Running) => unknown; says: RegExp }> = {
  memory: {
    args: ["--mb", "7", "--processes", "2", "--pause", "0.002"],
    harm: ({ offspring }) => overwrite(`/proc/${offspring}/mem`, "x", placeOf(UNTOUCHED, offspring, 7 << 20) + (1 << 19)),
    says: /memory-1: .*page 1[3-7]\d\d .* differs/,
  },
  files: {
    harm: ({ sandbox }) => {
      const data = path.join(sandbox.root, "data");
      truncateSync(path.join(data, readdirSync(data)[0] ?? "", "log"), 5);
    },
    says: /record \d+ of the log/,
  },
  locks: { harm: ({ offspring }) => process.kill(offspring, "SIGKILL"), says: /granted twice/ },
  pipes: {
    harm: ({ parent }) => {
      const pipe = openSync(`/proc/${parent}/fd/3`, "r");
      readSync(pipe, Buffer.alloc(8));
      closeSync(pipe);
    },
    says: /next number in the pipe/,
  },
  unix_sockets: { harm: ({ offspring }) => process.kill(offspring, "SIGKILL"), says: /unix-client: / },
  echo: {
    args: ["--address", address],
    network: "shared",
    harm: async () => {
      const socket = net.connect({ host: address, port: 7000 });
      await once(socket, "connect");
      socket.end("0\n2\n");
      socket.on("error", () => undefined);
    },
    says: /next line of a connection is b'2'/,
  },
  overdue_timer: { harm: ({ parent }) => process.kill(parent, "SIGSTOP"), says: /no progress of overdue_timer/ },
  sleeps: {
    harm: ({ parent }) => processesUnder({ pid: parent }).map((pid) => process.kill(pid, "SIGKILL")),
    says: /a sleep of \d s took/,
  },
  timers: { harm: ({ parent }) => process.kill(parent, "SIGSTOP"), says: /no progress of timers/ },
  mappings: {
    harm: ({ sandbox }) => overwrite(path.join(sandbox.root, "data/mapped"), "7".repeat(20), 4096),
    says: /file under the private mapping/,
  },
  threads: { harm: ({ parent }) => process.kill(parent, "SIGSTOP"), says: /no progress of thread-0, thread-1/ },
  shared: {
    harm: ({ offspring }) => overwrite(`/proc/${offspring}/mem`, "x", lastSharedPage(offspring, 8 << 20)),
    says: /shared-\d: .*page 2047 is not as it was in turn/,
  },
  kept: {
    harm: ({ sandbox }) => overwrite(path.join(sandbox.root, "dev/shm/kept"), "x", (2 << 20) - 1),
    says: /page 511 of place 2 differs/,
  },
  forks: { harm: ({ offspring }) => process.kill(offspring, "SIGKILL"), says: /ids of the grandchild/ },
  journal: { harm: ({ sandbox }) => overwrite(path.join(sandbox.root, "data/journal"), "9", 3), says: /record 0 is/ },
  database: {
    args: ["--journal-mode", "delete"],
    harm: ({ sandbox }) => {
      const file = path.join(sandbox.root, "data/database");
      copyFileSync(file, `${file}.copy`);
      renameSync(`${file}.copy`, file);
    },
    says: /attempt to write a readonly database/,
  },
  programs: {
    harm: ({ parent }) => {
      const page = Buffer.from(`${"\0".repeat(100)}00000000000001000005`); // and what was before it
      overwrite(`/proc/${parent}/mem`, "x", placeOf(page, parent, 16 * 4096) + 100);
    },
    says: /page that children find wiped/,
  },
  counter: { harm: ({ child }) => child.stdout?.destroy(), says: /BrokenPipe/ },
};

test("every workload has its test", () => {
  assert.deepEqual(Object.keys(WORKLOADS).toSorted(), workloadNames());
});

describe(
  "each workload is well when left alone, also after it was stopped for a moment, and tells when it was harmed",
  { concurrency: 4 },
  () => {
    for (const [name, { args = [], network = "own", harm, says }] of Object.entries(WORKLOADS)) {
      test(name, async () => {
        await using sandbox = await Sandbox.unpack(image);
        const child = sandbox.spawn(["run", name, ...args], network, { stdio: ["ignore", "pipe", "ignore"] });
        child.stdout?.resume();
        const well = await sandbox.run("check");
        assert.deepEqual([well.code, well.stdout.slice(0, 3)], [0, "OK "], well.stdout);

        const [parent = 0] = processesUnder(child);
        process.kill(parent, "SIGSTOP");
        const offspring = processesUnder({ pid: parent });
        for (const pid of offspring) process.kill(pid, "SIGSTOP");
        for (const pid of [...offspring, parent]) process.kill(pid, "SIGCONT");
        const again = await sandbox.run("check");
        assert.deepEqual([again.code, again.stdout.slice(0, 3)], [0, "OK "], again.stdout);

        await harm({ sandbox, child, parent, offspring: offspring[0] ?? 0 });
        const harmed = await sandbox.run("check", "--rounds", "50", "--limit", "3");
        assert.equal(harmed.code, 1);
        assert.match(harmed.stdout, says);
        assert.match(harmed.stdout, /^FAIL no progress|: FAIL /);
      });
    }
  },
);

test("a container without a workload is not well", async () => {
  await using sandbox = await Sandbox.unpack(image);
  assert.deepEqual(await sandbox.run("check", "--limit", "0"), { code: 1, stdout: "FAIL no progress of any worker\n" });
});

test("the echo client counts what comes back, and tells when the server dies", async () => {
  await using sandbox = await Sandbox.unpack(image);
  const child = sandbox.spawn(["run", "echo", "--address", address], "shared", { stdio: "ignore" });
  assert.equal((await sandbox.run("check")).code, 0);
  const stop = new AbortController();
  const ready = Promise.withResolvers<void>();
  const first = runEchoClient({ host: address, port: 7000 }, { stop: stop.signal, marks: [], stretches: [], ready: ready.resolve });
  await ready.promise;
  stop.abort();
  const { replies, connections, faults } = await first;
  assert.ok(replies > 0);
  assert.deepEqual([connections, faults], [1, []]);

  const readyAgain = Promise.withResolvers<void>();
  const second = runEchoClient(
    { host: address, port: 7000 },
    { stop: new AbortController().signal, marks: [], stretches: [], ready: readyAgain.resolve },
  );
  await readyAgain.promise;
  await sandbox.end(child);
  assert.equal((await second).errors, 1);
});
