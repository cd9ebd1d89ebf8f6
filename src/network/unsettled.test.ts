/** Connections that no process holds are counted as long as there are any. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Segment } from "./segment.fixture.ts";
import { countUnsettledTcp, countUnsettledUnix, unsettledCount } from "./unsettled.ts";

/** Connects to itself; goes one step on with each line it is given, and says when it has. */
const STEPS = `
  use Socket; use IO::Handle; $| = 1;
  sub step { print "$_[0]\\n"; <STDIN> }
  socket(my $listener, AF_INET, SOCK_STREAM, 0); bind($listener, sockaddr_in(0, INADDR_LOOPBACK)); listen($listener, 8);
  my ($port) = sockaddr_in(getsockname $listener);
  socket(my $client, AF_INET, SOCK_STREAM, 0); connect($client, sockaddr_in($port, INADDR_LOOPBACK)) or die $!;
  step("connected");
  socket(my $other, AF_UNIX, SOCK_STREAM, 0); bind($other, sockaddr_un("\\0dmigrate-$$")); listen($other, 8);
  socket(my $visitor, AF_UNIX, SOCK_STREAM, 0); connect($visitor, sockaddr_un("\\0dmigrate-$$")) or die $!;
  step("connected too");
  accept(my $_host, $other);
  accept(my $server, $listener);
  step("accepted");
  $server->blocking(0); 1 while syswrite($server, "x" x 65536); close $server;
  step("closed");
  1 while sysread($client, my $_bytes, 65536);
  step("read");
`;

void describe("connections that no process holds", { timeout: 60_000 }, () => {
  void it("are those to be accepted, and those that were closed before all was sent", async () => {
    using segment = new Segment();
    const host = segment.host("host");
    const child = host.namespace.run(() => spawn("perl", ["-e", STEPS], { stdio: ["pipe", "pipe", "inherit"] }));
    const said = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const next = async (): Promise<unknown> => (await said.next()).value;

    for (const [step, count] of [
      ["connected", 1],
      ["connected too", 2],
      ["accepted", 0],
      ["closed", 1],
    ] as const) {
      assert.equal(await next(), step);
      assert.equal(await unsettledCount(child.pid ?? 0), count, step);
      child.stdin.write("\n");
    }
    assert.equal(await next(), "read");
    while ((await unsettledCount(child.pid ?? 0)) > 0) await sleep(20); // until the kernel has said its last word
    child.stdin.end();
  });

  void it("are those of Unix sockets that have no inode yet", () => {
    const line = (state: string, inode: string, path: string): string =>
      `00000000e42b76a3: 00000003 00000000 00000000 0001 ${state} ${inode}${path}`;
    const accepted = [line("01", "1408739", " /run/s"), line("03", "1408742", " /run/ 0 ")];
    const header = "Num       RefCount Protocol Flags    Type St Inode Path";
    assert.equal(countUnsettledUnix([header, ...accepted].join("\n")), 0);
    assert.equal(countUnsettledUnix([header, ...accepted, line("02", "    0", " /run/s"), line("02", "    0", "")].join("\n")), 2);
  });

  void it("are not those that only linger", () => {
    const line = (state: string, queues: string, inode: number): string =>
      `   0: 0100007F:1F90 0100007F:D431 ${state} ${queues} 00:00000000 00000000     0        0 ${inode} 1 0000000000000000`;
    const [none, some] = ["00000000:00000000", "0000000A:00000000"];
    const table = [
      "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
      ...[line("06", none, 0), line("0A", none, 77), line("01", some, 78), line("05", none, 0), line("04", none, 0)],
    ];
    assert.equal(countUnsettledTcp(table.join("\n")), 0);
    assert.equal(countUnsettledTcp([...table, line("03", none, 0), line("08", none, 0), line("09", some, 0)].join("\n")), 3);
  });
});
