/**
 * Whatever breaks after the handover, while memory is still crossing, the container belongs to the target and never runs on the source
 * again; the user is told what is lost, the commands that the error names help, and nothing stays behind.
 */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { after, before, test } from "node:test";
import * as z from "zod";
import { askAgent, DMIGRATE, startAgent } from "../../lab/cluster.ts";
import { until, type Host } from "../../lab/host.ts";
import { redisImage } from "../../lab/images/catalogue.ts";
import { CLIENT, type Lab } from "../../lab/lab.ts";
import { hasEnded } from "../../src/core/journal-states.ts";
import {
  assertClean,
  assertNothingLeft,
  assertNothingOfRunc,
  assertRuns,
  killAgent,
  labOfTwo,
  migrate,
  newestMigration,
  provideImage,
  runContainer,
  whileRestoring,
  type MoreOptions,
} from "../support/lab.ts";

const ADDRESS = "10.77.0.203";
/** So much at that rate that whatever is broken then breaks long before the last page. */
const KILOBYTE_KEYS = 30_000;
const SLOW = ["tbf", "rate", "20mbit", "burst", "64kb", "latency", "50ms"] as const;
let lab: Lab;
let a: Host;
let b: Host;

before(async () => {
  lab = await labOfTwo("tafter");
  [a, b] = [lab.host("a"), lab.host("b")];
  await journalOnSmallDisk(a);
  await provideImage(b, redisImage); // so that it need not cross the slow link
  await runContainer(a, "redis", redisImage, "--ip", ADDRESS, "--restart", "always");
});
after(() => lab.down());

/** Gives an agent's state a file system of its own, which is soon full. */
async function journalOnSmallDisk(host: Host): Promise<void> {
  await killAgent(host);
  const move =
    "cp -a /var/lib/dmigrate /tmp/state && mount -t tmpfs -o size=8m tmpfs /var/lib/dmigrate && cp -a /tmp/state/. /var/lib/dmigrate";
  await host.run("sh", "-c", move);
  await startAgent(host);
}

async function populate(): Promise<void> {
  await lab.host(CLIENT).run("redis-cli", "-h", ADDRESS, "debug", "populate", String(KILOBYTE_KEYS), "key", "1000");
}

/** Migrates over a slow link and has something break while memory crosses. Returns the init that was frozen on the source. */
async function breakOff(source: Host, target: Host, fault: () => Promise<unknown>, options: MoreOptions = {}): Promise<string> {
  await populate();
  const initPid = (await source.run("docker", "inspect", "--format", "{{.State.Pid}}", "redis")).trim();
  await source.run("tc", "qdisc", "add", "dev", "eth0", "root", ...SLOW);
  const result = migrate(source, "redis", target.name, { "post-copy": fault }, "post-copy", options);
  await result.catch(() => {}); // its command may lose its agent
  await source.run("tc", "qdisc", "delete", "dev", "eth0", "root");
  return initPid;
}

const failedReport = z.looseObject({
  outcome: z.literal("failed"),
  error: z.looseObject({ code: z.string(), message: z.string() }),
});

const warned = z.looseObject({ outcome: z.string(), warnings: z.array(z.string()) });

/** What the newest migration of the source came to; its agent may have to bring it to its end first. */
async function outcomeOf(source: Host): Promise<{ readonly code: string; readonly message: string }> {
  await ended(source);
  const { stdout } = await source.exec(DMIGRATE, "report", (await newestMigration(source)).id, "--json");
  return failedReport.parse(JSON.parse(stdout)).error;
}

/** Returns when the source has written down that its newest migration has ended. */
async function ended(source: Host): Promise<void> {
  await until("the migration to end", async () => hasEnded((await newestMigration(source)).state));
}

/** The frozen tasks of the source are there and have not run since. */
async function assertFrozen(source: Host, initPid: string): Promise<void> {
  const timeOnProcessor = (): Promise<string> => source.run("cut", "-d", " ", "-f", "1", `/proc/${initPid}/schedstat`);
  const frozen = await timeOnProcessor();
  await sleep(1000); // a redis that runs looks around ten times a second
  assert.equal(await timeOnProcessor(), frozen);
  assert.notEqual((await source.exec("timeout", "2", "docker", "exec", "redis", "true")).code, 0);
}

/** Follows the error's advice, and then the container is an ordinary one of the target that migrates. */
async function recover(source: Host, target: Host): Promise<void> {
  await target.run("docker", "restart", "--time", "1", "redis");
  await assertRuns(target, "redis");
  await until("redis to answer", async () => (await lab.host(CLIENT).exec("redis-cli", "-h", ADDRESS, "ping")).stdout.trim() === "PONG");
  await source.run("timeout", "30", "docker", "rm", "--force", "redis");
  await until("what kept the missing pages to go", async () => (await target.exec("pgrep", "-f", "[d]migrate-keep")).code === 1);
  await assertClean(source, "redis");
  await assertNothingOfRunc(source);
  const { outcome, message } = await migrate(target, "redis", source.name);
  assert.equal(outcome, "completed", message);
  await assertClean(target, "redis");
  await assertNothingLeft(source);
}

async function migrateBack(): Promise<void> {
  const { outcome, message } = await migrate(b, "redis", "a");
  assert.equal(outcome, "completed", message);
}

/** Changes a byte in each of 256 pages that a process has, those in the middle of its memory, and prints where the first of them is. */
const ALTER_MEMORY = `
open(my $maps, "<", "/proc/$ARGV[0]/maps");
open(my $pagemap, "<", "/proc/$ARGV[0]/pagemap");
my @present;
while (<$maps>) {
  my ($at, $end) = map { hex } /^([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0 *$/ or next;
  for (; $at < $end; $at += 4096) {
    sysseek($pagemap, $at / 512, 0) and sysread($pagemap, my $entry, 8);
    push @present, $at if unpack("Q", $entry) >> 63;
  }
}
open(my $memory, "+<", "/proc/$ARGV[0]/mem");
for my $at (splice(@present, @present / 2, 256)) {
  sysseek($memory, $at, 0) and sysread($memory, my $byte, 1);
  sysseek($memory, $at, 0) and syswrite($memory, chr(ord($byte) ^ 1)) or die $!;
  printf "%x", $at unless $first++;
}
`;

test("memory that is not as it was on the source is found and told, and the source keeps what it has", async () => {
  const initPid = (await a.run("docker", "inspect", "--format", "{{.State.Pid}}", "redis")).trim();
  await populate();
  let start = "";
  const alter = async (): Promise<void> => void (start = (await a.run("perl", "-e", ALTER_MEMORY, initPid)).trim());
  const { outcome, errorCode, message, report } = await whileRestoring(a, b, alter, undefined, {}, "warm", { verify: true });
  assert.deepEqual([outcome, errorCode], ["failed", "MEMORY_ALTERED"], message);
  assert.match(message, new RegExp(`^redis runs on b with other memory .* page.* of process 1 from 0x${start} on`));
  const { same = NaN, different = NaN, released = NaN } = report?.verification ?? {};
  assert.ok(different > 0 && same > 0 && same + different + released === report?.pages.total);
  await assertRuns(b, "redis");
  await assertFrozen(a, initPid);
  await recover(a, b);
});

test("the target's agent is killed while memory crosses", async () => {
  const initPid = await breakOff(a, b, () => killAgent(b));
  await startAgent(b);
  const { code, message } = await outcomeOf(a);
  assert.equal(code, "MEMORY_LOST", message);
  assert.match(message, /^redis belongs to b now, .*`docker restart redis` on b .*`docker rm --force redis` removes/);
  await assertFrozen(a, initPid);
  const lacking = await migrate(b, "redis", "a");
  assert.equal(lacking.errorCode, "PREFLIGHT_BLOCKED", lacking.message);
  assert.match(lacking.message, /redis-server .* lacks memory .*`docker restart redis` starts it anew/);
  const left = await migrate(a, "redis", "b");
  assert.equal(left.errorCode, "PREFLIGHT_BLOCKED", left.message);
  assert.match(left.message, /^redis belongs to b: .*`dmigrate report m\w+` says what to do/);
  const policy = ["docker", "inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", "redis"] as const;
  await until("its restart policy to be back", async () => (await b.run(...policy)).trim() === "always");
  await recover(a, b);
});

/** The target has noticed that nobody serves its pages, and says so to who asks. */
async function targetWaits(): Promise<void> {
  await until("the target to wait", async () => (await newestMigration(b)).notice?.startsWith("redis runs here, but") === true);
  assert.match(
    await b.run(DMIGRATE, "list"),
    /^! m\w+: redis runs here, but .* waits for a .*`docker restart redis` here starts it anew$/m,
  );
}

test("the source's agent is killed twice while memory crosses: the next one serves it, and nothing is lost", async () => {
  const kill = async (): Promise<void> => {
    await killAgent(a);
    await targetWaits();
    await startAgent(a);
    await until("memory to cross again", async () => (await newestMigration(b)).notice?.startsWith("a answers again") === true);
    await killAgent(a);
    await targetWaits();
    await assertFrozen(a, initPid);
    await startAgent(a);
  };
  await populate();
  const initPid = (await a.run("docker", "inspect", "--format", "{{.State.Pid}}", "redis")).trim();
  const redis = (...words: string[]): Promise<string> => lab.host(CLIENT).run("redis-cli", "-h", ADDRESS, ...words);
  const digest = await redis("debug", "digest");
  await breakOff(a, b, kill, { verify: true });
  await ended(a);
  const { id } = await newestMigration(a);
  const { outcome, pages, verification, warnings, phases, steps, ...rest } = await askAgent(a, (agent) => agent.report(id));
  assert.equal(outcome, "completed", rest.error?.message);
  const { same = NaN, different, released = NaN } = verification ?? {};
  assert.ok(different === 0 && same > KILOBYTE_KEYS / 4 && same + released === pages.total, JSON.stringify(verification));
  assert.ok(pages.demanded + pages.pushed >= same - pages.zero && rest.bytes.memory > KILOBYTE_KEYS * 1000);
  assert.deepEqual(
    phases.map(({ name }) => name),
    ["preflight", "reserve", "copy", "stage", "freeze", "handover", "post-copy", "finish"],
  );
  assert.ok(steps.some((step) => step.name === "restore" && step.steps !== undefined) && rest.downtimeMs > 0);
  assert.equal(warnings.filter((warning) => warning.startsWith("The agent was restarted while memory crossed")).length, 2);
  assert.equal(await redis("debug", "digest"), digest);
  await assertRuns(b, "redis");
  await assertClean(a, "redis");
  await assertNothingLeft(b);
  await assertNothingOfRunc(a);
  await migrateBack();
});

test("whoever stops the container on the source means the one that runs, also once its agent was killed", async () => {
  let asked: Promise<unknown> | undefined;
  await breakOff(a, b, async () => {
    await killAgent(a);
    await startAgent(a);
    await until("memory to cross again", async () => (await newestMigration(b)).notice?.startsWith("a answers again") === true);
    asked = a.exec("docker", "stop", "--time", "60", "redis");
    await until("the container to stop", async () => (await b.run("docker", "ps", "--quiet")) === "");
  });
  await asked;
  await ended(a);
  const { id } = await newestMigration(a);
  const { outcome, warnings } = await askAgent(a, (agent) => agent.report(id));
  assert.equal(outcome, "completed");
  assert.ok(warnings.includes("redis was sent SIGTERM on a after the handover: it was passed on to b"), warnings.join("\n"));
  await assertClean(a, "redis");
  await b.run("docker", "start", "redis");
  await migrateBack();
});

test("the frozen tasks are ended while the source has no agent: the next one says at once that memory is lost", async () => {
  await breakOff(a, b, async () => {
    await killAgent(a);
    await a.run("docker", "rm", "--force", "redis");
    await startAgent(a);
  });
  const { code, message } = await outcomeOf(a);
  assert.equal(code, "MEMORY_LOST", message);
  assert.match(message, /what was frozen here was ended/);
  await until("the target to know", async () => hasEnded((await newestMigration(b)).state));
  assert.equal((await newestMigration(b)).state, "failed");
  await b.run("docker", "restart", "--time", "1", "redis");
  await until("redis to answer", async () => (await lab.host(CLIENT).exec("redis-cli", "-h", ADDRESS, "ping")).stdout.trim() === "PONG");
  await migrateBack();
});

test("the container is killed and started on the source while memory crosses: it does not run there again", async () => {
  let refusal = "";
  await breakOff(a, b, async () => {
    await a.exec("docker", "kill", "redis");
    const { code, stderr } = await a.exec("docker", "start", "redis");
    refusal = `${code} ${stderr}`;
  });
  assert.match(refusal, /^1 .*hosts.* is a directory/s);
  assert.equal((await outcomeOf(a)).code, "MEMORY_LOST");
  assert.notEqual((await a.exec("docker", "start", "redis")).code, 0);
  assert.equal(await a.run("docker", "ps", "--quiet"), "");
  await recover(a, b);
});

for (const command of ["stop", "restart"]) {
  test(`\`docker ${command}\` on the source while memory crosses stops the container that runs`, async () => {
    let asked: Promise<unknown> | undefined;
    await breakOff(a, b, async () => {
      asked = a.exec("docker", command, "--time", "60", "redis");
    });
    await asked;
    const { stdout } = await a.exec(DMIGRATE, "report", (await newestMigration(a)).id, "--json");
    const { outcome, warnings } = warned.parse(JSON.parse(stdout));
    const told = "redis was sent SIGTERM on a after the handover: it was passed on to b";
    assert.equal(outcome, "completed");
    assert.ok(warnings.includes(told), warnings.join("\n"));
    assert.equal((await b.run("docker", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "redis")).trim(), "exited 0");
    await assertClean(a, "redis");
    await assertNothingLeft(b);
    await b.run("docker", "start", "redis");
    await migrateBack();
  });
}

const HARMLESS: Readonly<Record<string, () => Promise<unknown>>> = {
  "the link is cut for a while": async () => {
    await lab.segment.setLink("b", "down");
    await sleep(3000);
    await lab.segment.setLink("b", "up");
  },
  "the disk of the source's journal is full for a while": async () => {
    await a.exec("dd", "if=/dev/zero", "of=/var/lib/dmigrate/fill", "bs=4k");
    await sleep(3000);
    await a.run("rm", "/var/lib/dmigrate/fill");
  },
};

for (const [name, event] of Object.entries(HARMLESS)) {
  test(`${name} as memory crosses: it goes on`, async () => {
    await breakOff(a, b, event);
    await ended(a);
    await assertRuns(b, "redis");
    assert.equal((await lab.host(CLIENT).run("redis-cli", "-h", ADDRESS, "dbsize")).trim(), String(KILOBYTE_KEYS));
    await assertClean(a, "redis");
    await assertNothingLeft(b);
    await migrateBack();
  });
}

test("a firewall resets the connections by which memory crosses: the target dials again, and nothing is lost", async () => {
  const rule = ["INPUT", "-p", "tcp", "--sport", "7461", "-j", "REJECT", "--reject-with", "tcp-reset"];
  await breakOff(a, b, async () => {
    await b.run("iptables", "-I", ...rule);
    await sleep(1500);
    await b.run("iptables", "-D", ...rule);
  });
  await ended(a);
  const { stdout } = await a.exec(DMIGRATE, "report", (await newestMigration(a)).id, "--json");
  const { outcome, warnings } = warned.parse(JSON.parse(stdout));
  assert.deepEqual([outcome, warnings], ["completed", ["The connections to b broke while memory crossed, and were made anew"]]);
  await assertRuns(b, "redis");
  assert.equal((await lab.host(CLIENT).run("redis-cli", "-h", ADDRESS, "dbsize")).trim(), String(KILOBYTE_KEYS));
  await assertClean(a, "redis");
  await migrateBack();
});

test("agents that are told to end while memory crosses let it cross", async () => {
  await breakOff(a, b, async () => {
    for (const host of [a, b]) await host.run("pkill", "-TERM", "-f", "dmigrate.ts agent");
    const refused = await a.exec(DMIGRATE, "migrate", "redis", "b");
    assert.match(refused.stderr, /has been told to end/);
  });
  for (const host of [a, b]) {
    await until(`the agent of ${host.name} to end`, async () => (await host.exec("pgrep", "-f", "dmigrate.ts agent")).code === 1);
    await startAgent(host);
    assert.equal((await newestMigration(host)).state, "completed");
  }
  await assertRuns(b, "redis");
  assert.equal((await lab.host(CLIENT).run("redis-cli", "-h", ADDRESS, "dbsize")).trim(), String(KILOBYTE_KEYS));
  await assertClean(a, "redis");
  await assertNothingLeft(b);
});
