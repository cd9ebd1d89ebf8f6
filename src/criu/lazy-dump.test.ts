/**
 * The end of a dump whose runc was killed: CRIU, which goes on by itself, is waited for. Here a process that calls itself as CRIU does.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { temporaryDirectory } from "../../test/support/hosts.ts";
import { dumpEnded } from "./lazy-dump.ts";

test("a dump has ended when CRIU has, which does so as its client leaves", { timeout: 20_000 }, async (t) => {
  const initPid = process.pid;
  const criu = spawn("sleep", ["600"], { argv0: `criu: dump --rpc -t ${initPid}` });
  t.after(() => criu.kill());
  const pageServer = createServer();
  t.after(() => pageServer.close());
  pageServer.listen(0, "127.0.0.1");
  await once(pageServer, "listening");
  const address = pageServer.address();
  assert.ok(address !== null && typeof address === "object");

  let hasEnded = false;
  const ending = dumpEnded({ folder: temporaryDirectory(t), initPid, port: address.port }).then(() => (hasEnded = true));
  const [client] = await once(pageServer, "connection");
  await Promise.all([once(client, "close"), once(pageServer, "connection")]); // it left, and came again
  await sleep(0);
  assert.equal(hasEnded, false);
  criu.kill();
  await ending;
  assert.notEqual(criu.signalCode ?? criu.exitCode, null);
});
