/**
 * A neighbour works until it is told to stop, and says how much it did when.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { test } from "node:test";
import { CHECKOUT } from "../paths.ts";
import { ClientProcess } from "./client-control.ts";
import { clientResult } from "./client-result.ts";

test("a neighbour works without a rest", async (t) => {
  const child = spawn(process.execPath, ["lab/workloads/neighbour.ts"], { cwd: CHECKOUT, stdio: ["pipe", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const neighbour = new ClientProcess(child, clientResult);
  await neighbour.ready();
  neighbour.span("ever", 0, Number.MAX_SAFE_INTEGER);
  neighbour.span("before there were any", 0, 1000);
  const { replies, spans } = await neighbour.stop();
  assert.ok(replies > 0);
  assert.deepEqual(
    spans.map((span) => span.replies),
    [replies, 0],
  );
});
